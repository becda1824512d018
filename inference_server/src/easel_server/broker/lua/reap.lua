#!lua flags=allow-oom
-- needs: queue runs
-- ARGV: most runs and most jobs to move, error for a passed deadline, error for a lost run with %s for the count and the
-- worker. Returns {requeued, failed, canceled}.
local limit, deadline_error, lost_error = ARGV[1], ARGV[2], ARGV[3]

local now = now_us()
local requeued, failed, canceled = 0, 0, 0
for _, n in ipairs(redis.call('ZRANGE', key('running'), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, limit)) do
  local attempts, max_attempts, worker, cancel =
    unpack(redis.call('HMGET', run_key(n), 'attempts', 'max_attempts', 'worker', 'cancel_requested'))
  if cancel then
    end_run(n, 'Canceled', now)
    canceled = canceled + 1
  elseif tonumber(attempts) >= tonumber(max_attempts) then
    end_run(n, 'Failed', now, string.format(lost_error, attempts, worker))
    failed = failed + 1
  else
    hand_back(n)
    requeued = requeued + 1
  end
end
for _, id in ipairs(redis.call('ZRANGE', key('deadlines'), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, limit)) do
  leave_run(id, redis.call('HGET', job_key(id), 'run'), 'Failed', now, deadline_error)
  failed = failed + 1
end
return { requeued, failed, canceled }
