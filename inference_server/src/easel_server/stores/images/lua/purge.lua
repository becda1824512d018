#!lua flags=allow-oom
-- needs: images/books
-- ARGV: limit. Counts what has expired no longer. Returns a flat list of entries and keys of objects that are to be deleted
-- from a bucket; they are returned again if nobody forgets them.
local now, objects = now_us(), {}
for _, moment in ipairs(redis.call('ZRANGE', key('image:expiry'), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  release_room(number(redis.call('HGET', key('image:sums'), 'e:' .. moment), 0), moment)
  redis.call('HDEL', key('image:sums'), 'e:' .. moment)
  redis.call('ZREM', key('image:expiry'), moment)
end
for _, entry in
  ipairs(redis.call('ZRANGE', key('image:object_expiry'), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, ARGV[1]))
do
  local object_keys = redis.call('HGET', key('image:objects'), entry)
  if object_keys then
    redis.call('ZADD', key('image:object_expiry'), integer(now + DELETE_AGAIN_US), entry)
    objects[#objects + 1] = entry
    objects[#objects + 1] = object_keys
  else -- the bucket's own lifecycle rule is left to delete them
    note_dropped('objects', entry)
    forget_objects(entry)
  end
end
return objects
