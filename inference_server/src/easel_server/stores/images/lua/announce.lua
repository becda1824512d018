#!lua flags=allow-oom
-- needs: images/books
-- ARGV: entry, how long it is kept in microseconds, keys of objects. A worker that has generated images needs this.
local entry = ARGV[1]
redis.call('ZADD', key('image:expiry'), integer(now_us() + ARGV[2]), entry)
redis.call('HSET', key('image:objects'), entry, ARGV[3])
return 1
