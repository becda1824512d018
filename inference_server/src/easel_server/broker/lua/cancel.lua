#!lua flags=allow-oom
-- ARGV: id. Returns the job as it is now, empty if unknown.
local id = ARGV[1]

local state = redis.call('HGET', job_key(id), 'state')
if state == 'Waiting' then
  redis.call('HSET', job_key(id), 'cancel_requested', 1)
  make_final(id, 'Canceled', now_us())
elseif state == 'Running' then
  redis.call('HSET', job_key(id), 'cancel_requested', 1)
end
return redis.call('HGETALL', job_key(id))
