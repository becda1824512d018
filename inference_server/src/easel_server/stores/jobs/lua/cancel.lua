#!lua flags=allow-oom
-- needs: jobs/runs
-- ARGV: id. Returns the job as it is now, empty if unknown.
local id = ARGV[1]

local n, state = unpack(redis.call('HMGET', job_key(id), 'run', 'state'))
if not n or state then
  return view(id)
end
local run = load_run(n)
if run.state == 'Running' and not has_followers(run) then
  redis.call('HSET', run_key(n), 'cancel_requested', 1)
  close_flight(run)
  publish_change(run)
else
  redis.call('HSET', job_key(id), 'cancel_requested', 1)
  leave_run(id, run, 'Canceled', now_us())
end
return view(id)
