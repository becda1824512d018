#!lua flags=no-writes
-- needs: jobs/estimate
-- ARGV: id. Returns {jobs ahead, microseconds of predicted work ahead} of a waiting job, or nil.
local n, final = unpack(redis.call('HMGET', job_key(ARGV[1]), 'run', 'state'))
local run = n and not final and load_run(n)
if not run or run.state ~= 'Waiting' then
  return nil
end
local rank = redis.call('ZRANK', queue_key(run.priority, run.owner), n)
return estimate_position(run.priority, run.owner, run.weight, rank or 0, n)
