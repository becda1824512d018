-- Prepended to every script of this folder. KEYS[1] is the service's prefix; every key touched begins with it, so all
-- share one hash slot and one ACL pattern. Times are microseconds of this server's clock; no other clock counts.
--
--   <prefix>job:<id>         hash    the job (fields: see redis_fields.py)
--   <prefix>images:<id>      list    its images, once Succeeded
--   <prefix>waiting          zset    id -> sequence number of its submit: lowest first, so a job that is handed back
--                                    stands ahead of everything submitted after it
--   <prefix>running          zset    id -> end of its lease
--   <prefix>deadlines        zset    id -> deadline, of waiting jobs that have one
--   <prefix>claims           hash    token -> id, so that a claim whose reply was lost can be repeated
--   <prefix>sequence         string  counts submits
--   <prefix>bell             list    wakes sleeping claims; at most one entry a waiting job
--   <prefix>finished         channel ids of jobs that became final
--   <prefix>outbox           zset    delivery -> when it is due
--   <prefix>outbox:bell      list    wakes sleeping deliverers
--   <prefix>delivery:<name>  hash    a webhook to be sent
--   <prefix>cache:<key>      list    images of an earlier job with the same parameters
--   <prefix>rate:<owner>     string  theoretical arrival time of the owner's next request (GCRA)

local prefix = KEYS[1]

local function key(name)
  return prefix .. name
end

local function job_key(id)
  return prefix .. 'job:' .. id
end

-- Lua prints large numbers as 1.8e+15.
local function integer(number)
  return string.format('%.0f', number)
end

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function ring(bell, queue)
  if redis.call('LLEN', key(bell)) < redis.call('ZCARD', key(queue)) then
    redis.call('RPUSH', key(bell), '1')
  end
end

local function enqueue_delivery(id, event, now)
  local webhook = redis.call('HGET', job_key(id), 'webhook')
  if not webhook then
    return
  end
  local target = cjson.decode(webhook)
  for _, wanted in ipairs(target.events) do
    if wanted == event then
      local name = id .. '.' .. event
      local snapshot = cjson.encode(redis.call('HGETALL', job_key(id)))
      redis.call('HSET', key('delivery:' .. name), 'event', event, 'url', target.url, 'attempt', 0, 'job', snapshot)
      redis.call('ZADD', key('outbox'), integer(now), name)
      ring('outbox:bell', 'outbox')
    end
  end
end

local function forget_claim(id)
  local token = redis.call('HGET', job_key(id), 'token')
  if token then
    redis.call('HDEL', key('claims'), token)
  end
end

-- The token stays in the job, so that a finish whose reply was lost can be repeated by its worker, and by no other.
local function make_final(id, state, now, error)
  forget_claim(id)
  redis.call('ZREM', key('waiting'), id)
  redis.call('ZREM', key('running'), id)
  redis.call('ZREM', key('deadlines'), id)
  redis.call('HSET', job_key(id), 'state', state, 'finished_us', integer(now))
  if error then
    redis.call('HSET', job_key(id), 'error', error)
  end
  enqueue_delivery(id, 'completed', now)
  local ttl_ms = redis.call('HGET', job_key(id), 'result_ttl_ms')
  redis.call('PEXPIRE', job_key(id), ttl_ms)
  redis.call('PEXPIRE', key('images:' .. id), ttl_ms)
  redis.call('PUBLISH', key('finished'), id)
end

local function queue_waiting(id)
  local sequence, deadline = unpack(redis.call('HMGET', job_key(id), 'sequence', 'deadline_us'))
  redis.call('HSET', job_key(id), 'state', 'Waiting')
  redis.call('ZADD', key('waiting'), sequence, id)
  if deadline then
    redis.call('ZADD', key('deadlines'), deadline, id)
  end
  ring('bell', 'waiting')
end

local function hand_back(id)
  forget_claim(id)
  redis.call('ZREM', key('running'), id)
  redis.call('HDEL', job_key(id), 'token', 'worker', 'started_us')
  redis.call('HSET', job_key(id), 'steps_done', 0)
  queue_waiting(id)
end

local function is_held(id, token)
  local state, current = unpack(redis.call('HMGET', job_key(id), 'state', 'token'))
  return state == 'Running' and current == token
end
