#!lua flags=allow-oom
-- needs: jobs/runs
-- ARGV: token, what the next attempt goes on from ('' for nothing new), how long that is kept in milliseconds, steps that
-- are done by then, microseconds of a GPU that this worker spent on it. Returns 1 if the claim was held.
local now = now_us()
local run = find_claimed(ARGV[1], now)
if not run then
  return 0
end
run.attempts = integer(math.max(0, run.attempts - 1))
redis.call('HSET', run_key(run.n), 'attempts', run.attempts)
if run.cancel_requested then
  add_spent(run, ARGV[5])
  end_run(run, 'Canceled', now)
else
  if ARGV[2] ~= '' then
    add_spent(run, ARGV[5])
    redis.call('HSET', run_key(run.n), 'spent_us', run.spent_us)
    keep_checkpoint(run, ARGV[2], ARGV[3])
    run.steps_done = ARGV[4]
  end
  release_run(run, now)
end
return 1
