-- Deliveries wait per host, so that one that doesn't answer holds up its own alone.
--
--   <prefix>outbox           zset    host -> when its next delivery may be attempted
--   <prefix>outbox:host:<h>  zset    delivery to that host -> when it is due
--   <prefix>outbox:attempts:<h> zset delivery that is being attempted -> end of its lease
--   <prefix>outbox:bell      list    wakes sleeping deliverers; the name is older than the word
--   <prefix>delivery:<name>  hash    a webhook to be sent

-- The host and port that a webhook goes to.
local function host_of(url)
  local authority = string.match(url, '^[^:]*://([^/?#]*)') or ''
  return string.lower(string.match(authority, '[^@]*$'))
end

local function host_deliveries(host)
  return key('outbox:host:' .. host)
end

local function host_attempts(host)
  return key('outbox:attempts:' .. host)
end

-- When the host's next attempt may begin: as its first delivery is due, and not before one of too many attempts ends.
local function schedule_host(host, max_attempts)
  local first = redis.call('ZRANGE', host_deliveries(host), 0, 0, 'WITHSCORES')
  if #first == 0 then
    redis.call('ZREM', key('outbox'), host)
    redis.call('DEL', host_attempts(host))
    return
  end
  local due = tonumber(first[2])
  if redis.call('ZCARD', host_attempts(host)) >= max_attempts then
    due = math.max(due, redis.call('ZRANGE', host_attempts(host), 0, 0, 'WITHSCORES')[2])
  end
  redis.call('ZADD', key('outbox'), integer(due), host)
end

-- Whether all of a delivery is there.
local function is_delivery(name)
  local event, url, attempt, job = unpack(redis.call('HMGET', key('delivery:' .. name), 'event', 'url', 'attempt', 'job'))
  return event and url and number(attempt) and job and (pcall(cjson.decode, job))
end

local function drop_delivery(name, host)
  note_dropped('delivery', name)
  redis.call('ZREM', host_deliveries(host), name)
  redis.call('ZREM', host_attempts(host), name)
  redis.call('DEL', key('delivery:' .. name))
end

-- An attempt is over: the delivery is due at due_us, or never again.
local function end_attempt(name, due_us, max_attempts)
  local url = redis.call('HGET', key('delivery:' .. name), 'url')
  if not url then
    return
  end
  local host = host_of(url)
  redis.call('ZREM', host_attempts(host), name)
  if due_us then
    redis.call('ZADD', host_deliveries(host), integer(due_us), name)
  else
    redis.call('ZREM', host_deliveries(host), name)
    redis.call('DEL', key('delivery:' .. name))
  end
  schedule_host(host, max_attempts)
  notify('outbox:bell', 'outbox')
end
