#!lua flags=allow-oom
-- ARGV: name.
redis.call('ZREM', key('outbox'), ARGV[1])
redis.call('DEL', key('delivery:' .. ARGV[1]))
return 1
