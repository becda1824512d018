#!lua flags=no-writes
-- ARGV: id. Returns the job, empty if unknown.
return redis.call('HGETALL', job_key(ARGV[1]))
