#!lua flags=allow-oom
-- needs: jobs/runs
-- ARGV: id. Returns the job as it is now, empty if unknown.
local id = ARGV[1]

local now = now_us()
local n, state = unpack(redis.call('HMGET', job_key(id), 'run', 'state'))
if not n or state then
  return view(id)
end
local run = find_run(n, now)
if not run then
  if is_orphan(id) then -- if dropping the run hasn't ended it
    end_orphan(id, now)
  end
elseif run.state == 'Running' and not has_followers(run) then
  redis.call('HSET', run_key(n), 'cancel_requested', 1)
  close_flight(run)
  publish_change(run)
else
  redis.call('HSET', job_key(id), 'cancel_requested', 1)
  leave_run(id, run, 'Canceled', now)
end
return view(id)
