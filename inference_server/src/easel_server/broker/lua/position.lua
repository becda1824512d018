#!lua flags=no-writes
-- needs: queue
-- ARGV: id. Returns {jobs ahead, microseconds of predicted work ahead} of a waiting job, or nil. See FairQueue.ahead_of.
local POSITION_OWNERS = 100
local ROUNDING_US = 1
local TURNS_PRECISION = 1e6

local n, final = unpack(redis.call('HMGET', job_key(ARGV[1]), 'run', 'state'))
local run = n and not final and load_run(n)
if not run or run.state ~= 'Waiting' then
  return nil
end
local p, owner = run.priority, run.owner
local jobs = redis.call('ZCOUNT', key('waiting'), '-inf', '(' .. integer(p * PRIORITY_SPAN))
local work_us = 0
for higher = 0, p - 1 do
  work_us = work_us + (redis.call('HGET', key('work'), 'us:' .. higher) or 0)
end
local given_back = redis.call('ZRANGE', turns_key(p), '-inf', GIVEN_BACK, 'BYSCORE', 'LIMIT', 0, POSITION_OWNERS)
for _, place in ipairs(given_back) do
  local other = number_of(place)
  if other == n then
    return { jobs, integer(work_us) }
  end
  jobs, work_us = jobs + 1, work_us + redis.call('HGET', run_key(other), 'cost_us')
end

-- Mean work of an owner's runs in its queue, and how many there are.
local function mean_us(name)
  local own_us = tonumber(redis.call('HGET', key('work'), 'us:' .. p .. ':' .. name))
  local count = redis.call('ZCARD', queue_key(p, name))
  return own_us / count, count
end

local rank = redis.call('ZRANK', queue_key(p, owner), n)
local own_us = mean_us(owner) * rank
jobs, work_us = jobs + rank, work_us + own_us
local tag = start_tag(p, owner) + own_us / run.weight
local places = redis.call('ZRANGE', turns_key(p), '(' .. GIVEN_BACK, number_text(tag + ROUNDING_US), 'BYSCORE', 'LIMIT', 0,
  POSITION_OWNERS, 'WITHSCORES')
for index = 1, #places, 2 do
  local other = owner_of(places[index])
  if other ~= owner then
    local mean, count = mean_us(other)
    local weight = redis.call('HGET', run_key(number_of(places[index])), 'weight')
    local turns = math.floor((tag - places[index + 1]) * weight / mean * TURNS_PRECISION + 0.5) / TURNS_PRECISION
    local before = math.max(0, math.min(count, math.ceil(turns)))
    if before == turns and before < count then
      local tied = redis.call('ZRANGE', queue_key(p, other), before, before)[1]
      before = before + (tonumber(tied) < tonumber(n) and 1 or 0)
    end
    jobs, work_us = jobs + before, work_us + before * mean
  end
end
return { jobs, integer(work_us) }
