#!lua flags=allow-oom
-- needs: outbox/hosts
-- ARGV: lease_us, most attempts at once at one host, busy customers. Returns {name, fields} of the delivery that has been
-- due longest at the host that has been due longest, those of busy customers passed over, or nil.
local MAX_HOSTS = 1000 -- that are looked at in one call, and found busy
local MAX_PASSED = 100 -- deliveries to one host that are passed over in one call
local lease_us, max_attempts = tonumber(ARGV[1]), tonumber(ARGV[2])
local busy = {}
for index = 3, #ARGV do
  busy[ARGV[index]] = true
end

-- The first delivery to the host that is due and no busy customer's. Those of an earlier version name no owner.
local function find_due(host, now)
  local most = #ARGV > 2 and MAX_PASSED or 1
  for _, name in ipairs(redis.call('ZRANGE', host_deliveries(host), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, most)) do
    local owner = redis.call('HGET', key('delivery:' .. name), 'owner')
    if not (owner and busy[owner]) then
      return name
    end
  end
end

local now = now_us()
local passed_hosts = 0
for _ = 1, MAX_HOSTS do
  local host =
    redis.call('ZRANGE', key('outbox'), '-inf', integer(now), 'BYSCORE', 'LIMIT', passed_hosts, 1)[1]
  if not host then
    redis.call('DEL', key('outbox:bell'))
    return nil
  end
  redis.call('ZREMRANGEBYSCORE', host_attempts(host), '-inf', integer(now))
  local name
  if redis.call('ZCARD', host_attempts(host)) < max_attempts then
    name = find_due(host, now)
    if not name then
      passed_hosts = passed_hosts + 1
    end
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
