#!lua flags=allow-oom
-- ARGV: id, token, steps_done. Returns a Verdict. A lease that ran out unnoticed is simply extended: nobody took the job.
local id, token, steps_done = ARGV[1], ARGV[2], ARGV[3]

if not is_held(id, token) then
  return 'Lost'
end
local now = now_us()
local lease_us, deadline_us, cancel = unpack(
  redis.call('HMGET', job_key(id), 'lease_us', 'deadline_us', 'cancel_requested'))
redis.call('HSET', job_key(id), 'steps_done', steps_done)
redis.call('ZADD', key('running'), integer(now + lease_us), id)
if cancel then
  return 'Cancel'
elseif deadline_us and tonumber(deadline_us) <= now then
  return 'DeadlinePassed'
end
return 'Continue'
