#!lua flags=allow-oom
-- needs: jobs/runs
-- ARGV: id. Returns the job, empty if unknown; from now on, changes of its run are published.
local id = ARGV[1]
local content, run, state = unpack(redis.call('HMGET', job_key(id), 'content', 'run', 'state'))
if content and is_orphan(id) then
  end_orphan(id, now_us())
elseif content and not state then
  redis.call('HSET', run_key(run), 'watched', 1)
end
return view(ARGV[1])
