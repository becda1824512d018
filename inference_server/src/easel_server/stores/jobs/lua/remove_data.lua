#!lua flags=allow-oom
-- needs: jobs/fields images/books
-- ARGV: id. Returns {entry, keys of objects} if they are to be deleted from a bucket now; else an empty list.
local id = ARGV[1]
local n, state, images, finished_us, ttl_ms =
  unpack(redis.call('HMGET', job_key(id), 'run', 'state', 'images', 'finished_us', 'result_ttl_ms'))
if state ~= 'Succeeded' or not images or not n then -- an earlier version's images have no books: they expire
  return {}
end
redis.call('HSET', job_key(id), 'data_removed', 1)
redis.call('HDEL', job_key(id), 'images')
local holders = redis.call('GET', key('image:holders:' .. n))
if number(holders, 0) > 1 then
  redis.call('DECR', key('image:holders:' .. n))
  return {}
end
if number(finished_us) and number(ttl_ms) then
  release_room(string.match(images, '^%d+') or 0, moment_of(finished_us, ttl_ms))
end
redis.call('DEL', key('images:' .. n))
local object_keys = redis.call('HGET', key('image:objects'), n)
if not object_keys then
  return {}
end
-- The caller deletes them; if it doesn't come to that, they have expired.
redis.call('ZADD', key('image:object_expiry'), integer(now_us() + DELETE_AGAIN_US), n)
return { n, object_keys }
