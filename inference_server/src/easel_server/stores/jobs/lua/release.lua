#!lua flags=allow-oom
-- needs: jobs/runs
-- ARGV: token. Returns 1 if the claim was held.
local n = redis.call('HGET', key('claims'), ARGV[1])
if not n then
  return 0
end
local run = load_run(n)
run.attempts = integer(run.attempts - 1)
redis.call('HSET', run_key(n), 'attempts', run.attempts)
if run.cancel_requested then
  end_run(run, 'Canceled', now_us())
else
  release_run(run, now_us())
end
return 1
