#!lua flags=allow-oom
-- ARGV: name, attempt that postpones, delay_us. The attempt tells an older deliverer from the one that took over.
local name, attempt, delay_us = ARGV[1], ARGV[2], tonumber(ARGV[3])

if redis.call('HGET', key('delivery:' .. name), 'attempt') == attempt then
  redis.call('ZADD', key('outbox'), integer(now_us() + delay_us), name)
end
return 1
