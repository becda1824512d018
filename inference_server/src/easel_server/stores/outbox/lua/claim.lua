#!lua flags=allow-oom
-- needs: outbox/hosts
-- ARGV: lease_us, most attempts at once at one host. Returns {name, fields} of the delivery that has been due longest
-- at the host that has been due longest, or nil.
local MAX_HOSTS = 1000 -- that are looked at in one call, and found busy
local lease_us, max_attempts = tonumber(ARGV[1]), tonumber(ARGV[2])

local now = now_us()
for _ = 1, MAX_HOSTS do
  local host = redis.call('ZRANGE', key('outbox'), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, 1)[1]
  if not host then
    redis.call('DEL', key('outbox:bell'))
    return nil
  end
  redis.call('ZREMRANGEBYSCORE', host_attempts(host), '-inf', integer(now))
  local name
  if redis.call('ZCARD', host_attempts(host)) < max_attempts then
    name = redis.call('ZRANGE', host_deliveries(host), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, 1)[1]
  end
  if name and not is_delivery(name) then
    drop_delivery(name, host)
    name = nil
  end
  if name then
    -- Should its deliverer die, it is due again when the lease is over.
    redis.call('ZADD', host_deliveries(host), integer(now + lease_us), name)
    redis.call('ZADD', host_attempts(host), integer(now + lease_us), name)
    redis.call('HINCRBY', key('delivery:' .. name), 'attempt', 1)
  end
  schedule_host(host, max_attempts)
  if name then
    return { name, redis.call('HGETALL', key('delivery:' .. name)) }
  end
end
return nil
