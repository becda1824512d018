#!lua flags=no-writes
-- needs: jobs/fields
-- ARGV: id, 'images' or 'previews'. Returns the images of the job: none of those that its run made after it had left.
local run, state, previews = unpack(redis.call('HMGET', job_key(ARGV[1]), 'run', 'state', 'previews'))
if not run or (ARGV[2] == 'images' and state ~= 'Succeeded') or (ARGV[2] == 'previews' and previews == '0') then
  return {}
end
local last = ARGV[2] == 'previews' and previews and previews - 1 or -1
return redis.call('LRANGE', key(ARGV[2] .. ':' .. run), 0, last)
