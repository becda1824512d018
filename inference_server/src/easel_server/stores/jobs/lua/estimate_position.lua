#!lua flags=no-writes
-- needs: jobs/estimate
-- ARGV: owner, priority, weight, model ('' for none). Returns {jobs ahead, microseconds of predicted work ahead} of a job that comes next.
local owner, p, weight, model = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] ~= '' and ARGV[4] or nil
local rank = redis.call('ZCARD', queue_key(schedule_of(p, model), owner))
return estimate_position(p, model, owner, weight, rank, nil)
