#!lua flags=allow-oom
-- needs: jobs/fields images/books
-- ARGV: id. Returns {entry, keys of objects} if they are to be deleted from a bucket now; else an empty list.
local id = ARGV[1]
local n, bytes, state = unpack(redis.call('HMGET', job_key(id), 'run', 'image_bytes', 'state'))
if state ~= 'Succeeded' or not bytes then -- an earlier version's images have no books: they expire
  return {}
end
redis.call('HSET', job_key(id), 'data_removed', 1)
redis.call('HDEL', job_key(id), 'images', 'image_bytes')
return release_images(image_entry(n, bytes), key('images:' .. n), now_us())
