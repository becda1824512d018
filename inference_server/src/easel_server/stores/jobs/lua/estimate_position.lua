#!lua flags=no-writes
-- needs: jobs/estimate
-- ARGV: owner, priority, weight. Returns {jobs ahead, microseconds of predicted work ahead} of a job that comes next.
local owner, p, weight = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
return estimate_position(p, owner, weight, redis.call('ZCARD', queue_key(p, owner)), nil)
