#!lua flags=no-writes
-- ARGV: id, 'images' or 'previews'. Returns the pictures of the job's run.
local run, state = unpack(redis.call('HMGET', job_key(ARGV[1]), 'run', 'state'))
if not run or (ARGV[2] == 'images' and state ~= 'Succeeded') then
  return {}
end
return redis.call('LRANGE', key(ARGV[2] .. ':' .. run), 0, -1)
