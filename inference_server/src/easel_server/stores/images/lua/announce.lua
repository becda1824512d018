#!lua flags=allow-oom
-- ARGV: entry, how long it is kept in microseconds, keys of objects. A worker that has generated images needs this.
redis.call('ZADD', key('image:object_expiry'), integer(now_us() + ARGV[2]), ARGV[1])
redis.call('HSET', key('image:objects'), ARGV[1], ARGV[3])
return 1
