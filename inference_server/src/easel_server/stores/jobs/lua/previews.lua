#!lua flags=no-writes
-- needs: jobs/fields
-- ARGV: id. Returns the job's previews: none of those that its run made after it had left.
local run, previews = unpack(redis.call('HMGET', job_key(ARGV[1]), 'run', 'previews'))
if not run or previews == '0' then
  return {}
end
return redis.call('LRANGE', key('previews:' .. run), 0, previews and number(previews, 0) - 1 or -1)
