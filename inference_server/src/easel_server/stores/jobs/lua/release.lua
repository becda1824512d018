#!lua flags=allow-oom
-- needs: jobs/runs
-- ARGV: token. Returns 1 if the claim was held.
local now = now_us()
local run = find_claimed(ARGV[1], now)
if not run then
  return 0
end
run.attempts = integer(math.max(0, run.attempts - 1))
redis.call('HSET', run_key(run.n), 'attempts', run.attempts)
if run.cancel_requested then
  end_run(run, 'Canceled', now)
else
  release_run(run, now)
end
return 1
