#!lua flags=no-writes
-- needs: queue
-- ARGV: id. Returns {jobs ahead, microseconds of predicted work ahead} of a waiting job, or nil. See FairQueue.ahead_of.
local POSITION_OWNERS = 100
local ROUNDING_US = 1
local TURNS_PRECISION = 1e6

local n, final = unpack(redis.call('HMGET', job_key(ARGV[1]), 'run', 'state'))
if not n or final or redis.call('HGET', run_key(n), 'state') ~= 'Waiting' then
  return nil
end
local turn = get_turn(n)
local jobs, work_us = 0, 0
for p = 0, turn.p - 1 do
  local more, more_us = unpack(redis.call('HMGET', key('work'), 'jobs:' .. p, 'us:' .. p))
  jobs, work_us = jobs + (more or 0), work_us + (more_us or 0)
end
for _, other in ipairs(redis.call('ZRANGE', key('returned:' .. turn.p), 0, POSITION_OWNERS - 1)) do
  if other == n then
    return { jobs, integer(work_us) }
  end
  jobs, work_us = jobs + 1, work_us + redis.call('HGET', run_key(other), 'cost_us')
end

local function mean_us(owner)
  local own_us = tonumber(redis.call('HGET', key('work'), 'us:' .. turn.p .. ':' .. owner))
  local count = redis.call('ZCARD', queue_key(turn.p, owner))
  return own_us / count, count
end

local rank = redis.call('ZRANK', queue_key(turn.p, turn.owner), n)
local own_us = mean_us(turn.owner) * rank
jobs, work_us = jobs + rank, work_us + own_us
local tag = start_tag(turn.p, turn.owner) + own_us / turn.weight
local places = redis.call('ZRANGE', turns_key(turn.p), '-inf', number_text(tag + ROUNDING_US), 'BYSCORE', 'LIMIT', 0, POSITION_OWNERS,
  'WITHSCORES')
for index = 1, #places, 2 do
  local owner = owner_of(places[index])
  if owner ~= turn.owner then
    local mean, count = mean_us(owner)
    local weight = redis.call('HGET', run_key(oldest_of(turn.p, owner)), 'weight')
    local turns = math.floor((tag - places[index + 1]) * weight / mean * TURNS_PRECISION + 0.5) / TURNS_PRECISION
    local before = math.max(0, math.min(count, math.ceil(turns)))
    if before == turns and before < count then
      local tied = redis.call('ZRANGE', queue_key(turn.p, owner), before, before)[1]
      before = before + (tonumber(tied) < tonumber(n) and 1 or 0)
    end
    jobs, work_us = jobs + before, work_us + before * mean
  end
end
return { jobs, integer(work_us) }
