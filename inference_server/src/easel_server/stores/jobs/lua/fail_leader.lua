#!lua flags=allow-oom
-- needs: jobs/runs
-- ARGV: token, error. The claimed run's leader fails, since its record can't be read; the run goes on for its other jobs, the
-- attempt uncounted. Returns 1 if the claim was held.
local now = now_us()
local run = find_claimed(ARGV[1], now)
if not run then
  return 0
end
leave_run(run.leader, run, 'Failed', now, ARGV[2])
if not run.is_over then
  redis.call('HSET', run_key(run.n), 'attempts', integer(math.max(0, run.attempts - 1)))
  release_run(run, now)
end
return 1
