#!lua flags=allow-oom
-- ARGV: lease_us. Returns {name, fields} of the delivery that has been due longest, or nil.
local lease_us = tonumber(ARGV[1])

local now = now_us()
local name = redis.call('ZRANGE', key('outbox'), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, 1)[1]
if not name then
  redis.call('DEL', key('outbox:bell'))
  return nil
end
redis.call('ZADD', key('outbox'), integer(now + lease_us), name)
redis.call('HINCRBY', key('delivery:' .. name), 'attempt', 1)
return { name, redis.call('HGETALL', key('delivery:' .. name)) }
