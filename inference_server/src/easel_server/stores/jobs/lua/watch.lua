#!lua flags=allow-oom
-- needs: jobs/fields
-- ARGV: id. Returns the job, empty if unknown; from now on, changes of its run are published.
local run, state = unpack(redis.call('HMGET', job_key(ARGV[1]), 'run', 'state'))
if run and not state then
  redis.call('HSET', run_key(run), 'watched', 1)
end
return view(ARGV[1])
