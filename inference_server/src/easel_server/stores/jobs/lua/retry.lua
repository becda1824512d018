#!lua flags=allow-oom
-- needs: jobs/runs
-- ARGV: token, error if no further attempt is allowed. Returns the state that the job has now; '' if the claim was not held.
local now = now_us()
local run = find_claimed(ARGV[1], now)
if not run then
  return ''
end
redis.call('INCR', key('engine_failures'))
if run.cancel_requested then
  end_run(run, 'Canceled', now)
  return 'Canceled'
elseif tonumber(run.attempts) >= tonumber(run.max_attempts) then
  end_run(run, 'Failed', now, ARGV[2])
  return 'Failed'
end
drop_checkpoint(run) -- it may be what the attempt failed by
release_run(run, now)
return 'Waiting'
