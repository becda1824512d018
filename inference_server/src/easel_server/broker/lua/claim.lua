#!lua flags=allow-oom
-- needs: queue runs
-- ARGV: token, worker, lease_us, max_attempts, error for a passed deadline, seconds that a worker counts as there,
-- max_jobs, max_images. Returns a list of {token, job, inputs}; empty if nothing waits.
-- Handing out work is allowed when memory is short: finished jobs are what frees it.
local token, worker, lease_us, max_attempts, deadline_error = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local seen_seconds, max_jobs, max_images = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local BATCH_OWNERS, BATCH_ENTRIES = 16, 16 -- looked at for a batch, as in fair_queue.py

local now = now_us()
redis.call('ZADD', key('workers'), integer(now), worker)
redis.call('ZREMRANGEBYSCORE', key('workers'), '-inf', integer(now - seen_seconds * 1000000))

local claims = {}

local function add_claim(number, n)
  local id = redis.call('HGET', run_key(n), 'leader')
  claims[#claims + 1] = { token .. '.' .. number, view(id), redis.call('HGETALL', key('inputs:' .. n)) }
end

local function hand_out(n)
  local turn = get_turn(n)
  local numbered = token .. '.' .. (#claims + 1)
  take_turn(turn)
  redis.call('ZREM', key('waiting'), n)
  redis.call('ZREM', key('deadlines'), redis.call('HGET', run_key(n), 'leader'))
  redis.call('ZADD', key('running'), integer(now + lease_us), n)
  redis.call('HSET', key('claims'), numbered, n)
  redis.call('HINCRBY', key('work'), 'us:running', integer(turn.cost_us))
  redis.call('HINCRBY', run_key(n), 'attempts', 1)
  redis.call('HSET', run_key(n), 'state', 'Running', 'token', numbered, 'worker', worker, 'steps_done', 0,
    'started_us', integer(now), 'lease_us', ARGV[3], 'max_attempts', max_attempts, 'rest_us', integer(turn.cost_us))
  publish_change(n)
  add_claim(#claims + 1, n)
end

-- Runs of the same priority and batch key, in the order of their turns.
local function companions(first)
  local found = {}
  local turn = get_turn(first)
  local batch = redis.call('HGET', run_key(first), 'batch')
  local function consider(n, tag)
    local other, cost_us, weight = unpack(redis.call('HMGET', run_key(n), 'batch', 'cost_us', 'weight'))
    if other == batch and n ~= first then
      found[#found + 1] = { n = n, tag = tag }
    end
    return tag + cost_us / weight
  end
  for _, n in ipairs(redis.call('ZRANGE', key('returned:' .. turn.p), 0, BATCH_ENTRIES - 1)) do
    consider(n, -1)
  end
  local places = redis.call('ZRANGE', turns_key(turn.p), 0, BATCH_OWNERS - 1, 'WITHSCORES')
  for index = 1, #places, 2 do
    local tag = tonumber(places[index + 1])
    for _, n in ipairs(redis.call('ZRANGE', queue_key(turn.p, owner_of(places[index])), 0, BATCH_ENTRIES - 1)) do
      tag = consider(n, tag)
    end
  end
  table.sort(found, function(a, b)
    return a.tag < b.tag or (a.tag == b.tag and tonumber(a.n) < tonumber(b.n))
  end)
  return found
end

local repeated = redis.call('HGET', key('claims'), token .. '.1')
while repeated do
  add_claim(#claims + 1, repeated)
  repeated = redis.call('HGET', key('claims'), token .. '.' .. (#claims + 1))
end
if #claims > 0 then
  return claims
end

local first = next_turn()
while first and not is_in_time(first, now, deadline_error) do
  first = next_turn()
end
if not first then
  redis.call('DEL', key('bell'))
  return claims
end
local others = max_jobs > 1 and companions(first) or {}
local images = tonumber(redis.call('HGET', run_key(first), 'images'))
hand_out(first)
for _, other in ipairs(others) do
  if #claims == max_jobs then
    break
  end
  local more = tonumber(redis.call('HGET', run_key(other.n), 'images'))
  if images + more <= max_images and is_in_time(other.n, now, deadline_error) then
    hand_out(other.n)
    images = images + more
  end
end
return claims
