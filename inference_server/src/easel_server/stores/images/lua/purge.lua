#!lua flags=allow-oom
-- needs: images/books
-- ARGV: limit. Counts what has expired no longer. Returns a flat list of entries and keys of objects that are to be deleted
-- from a bucket; they are returned again if nobody forgets them.
local now, objects = now_us(), {}
for _, moment in ipairs(redis.call('ZRANGE', key('image:expiry'), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  release_room(redis.call('HGET', key('image:sums'), 'e:' .. moment) or 0, moment)
  redis.call('HDEL', key('image:sums'), 'e:' .. moment)
  redis.call('ZREM', key('image:expiry'), moment)
end
for _, entry in
  ipairs(redis.call('ZRANGE', key('image:object_expiry'), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, ARGV[1]))
do
  redis.call('ZADD', key('image:object_expiry'), integer(now + DELETE_AGAIN_US), entry)
  objects[#objects + 1] = entry
  objects[#objects + 1] = redis.call('HGET', key('image:objects'), entry)
end
return objects
