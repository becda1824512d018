#!lua flags=allow-oom
-- needs: images/books
-- ARGV: limit. Forgets what has expired; what has objects in a bucket is handed out first, to be deleted there. Returns a
-- flat list of entries and keys of objects.
local now, objects = now_us(), {}
for _, entry in ipairs(redis.call('ZRANGE', key('image:expiry'), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  local object_keys = redis.call('HGET', key('image:objects'), entry)
  if object_keys then
    redis.call('ZADD', key('image:expiry'), 'XX', integer(now + DELETE_AGAIN_US), entry)
    objects[#objects + 1] = entry
    objects[#objects + 1] = object_keys
  else
    forget_images(entry)
  end
end
return objects
