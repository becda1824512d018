#!lua flags=allow-oom
-- ARGV: most jobs to move, error for a passed deadline, error for a lost job with %s for the count and the worker.
-- Returns {requeued, failed, canceled}.
local limit, deadline_error, lost_error = ARGV[1], ARGV[2], ARGV[3]

local now = now_us()
local requeued, failed, canceled = 0, 0, 0
for _, id in ipairs(redis.call('ZRANGE', key('running'), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, limit)) do
  local attempts, max_attempts, worker, cancel =
    unpack(redis.call('HMGET', job_key(id), 'attempts', 'max_attempts', 'worker', 'cancel_requested'))
  if cancel then
    make_final(id, 'Canceled', now)
    canceled = canceled + 1
  elseif tonumber(attempts) >= tonumber(max_attempts) then
    make_final(id, 'Failed', now, string.format(lost_error, attempts, worker))
    failed = failed + 1
  else
    hand_back(id)
    requeued = requeued + 1
  end
end
for _, id in ipairs(redis.call('ZRANGE', key('deadlines'), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, limit)) do
  make_final(id, 'Failed', now, deadline_error)
  failed = failed + 1
end
return { requeued, failed, canceled }
