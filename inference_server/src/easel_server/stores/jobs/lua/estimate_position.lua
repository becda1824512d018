#!lua flags=no-writes
-- needs: jobs/estimate
-- ARGV: owner, priority, weight, model ('' for none), microseconds within which it may start ('' for a job without terms). Returns {jobs ahead, microseconds of predicted work ahead} of a job that comes next.
local owner, p, weight, model = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] ~= '' and ARGV[4] or nil
local s, now, start_within_us = schedule_of(p, model), now_us(), number(ARGV[5])
local run = { start_by_us = start_within_us and now + start_within_us }
return estimate_position(p, model, owner, weight, count_before(s, owner, redis.call('ZCARD', queue_key(s, owner)), run, now), nil)
