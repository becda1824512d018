#!lua flags=no-writes
-- needs: jobs/estimate
-- ARGV: id. Returns {jobs ahead, microseconds of predicted work ahead} of a waiting job, or nil.
local n, final = unpack(redis.call('HMGET', job_key(ARGV[1]), 'run', 'state'))
local run = n and not final and load_run(n)
if not run or run.state ~= 'Waiting' then
  return nil
end
local s = schedule_of(run.priority, run.model)
local rank = redis.call('ZRANK', queue_key(s, run.owner), n)
local own_before = rank and count_before(s, run.owner, rank, run, now_us()) or 0
return estimate_position(tonumber(run.priority), run.model, run.owner, run.weight, own_before, n)
