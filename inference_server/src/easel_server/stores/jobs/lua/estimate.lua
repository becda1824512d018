-- What goes before a run in schedule order, as FairQueue.position does.
-- needs: jobs/queue

local POSITION_OWNERS = 100
local ROUNDING_US = 1
local RANK_PRECISION = 1e6

-- Mean work of an owner's runs in its queue, and how many there are; 1 where the sum is lost.
local function mean_us(s, owner)
  local count = redis.call('ZCARD', queue_key(s, owner))
  local sum = number(redis.call('HGET', key('work'), 'us:' .. s .. ':' .. owner), 0)
  return math.max(1, sum / math.max(1, count)), count
end

-- {jobs ahead, microseconds of predicted work ahead} of the run with number n, which stands at this rank of its owner's
-- queue; or of one that comes next, if n is nil. Every argument but n and rank is needed if the run was released.
local function estimate_position(p, model, owner, weight, rank, n)
  local s = schedule_of(p, model)
  local jobs = redis.call('ZCOUNT', key('waiting'), '-inf', '(' .. integer(p * PRIORITY_SPAN))
  local work_us = 0
  for higher = 0, p - 1 do
    work_us = work_us + math.max(0, number(redis.call('HGET', key('work'), 'us:' .. higher), 0))
  end
  local released = redis.call('ZRANGE', schedule_key(s), '-inf', RELEASED, 'BYSCORE', 'LIMIT', 0, POSITION_OWNERS)
  for _, place in ipairs(released) do
    local other = number_of(place)
    if other == n then
      return { jobs, integer(work_us) }
    end
    jobs, work_us = jobs + 1, work_us + number(other and redis.call('HGET', run_key(other), 'cost_us'), 0)
  end

  local own_us = rank > 0 and mean_us(s, owner) * rank or 0
  jobs, work_us = jobs + rank, work_us + own_us
  local tag = start_tag(s, owner, model) + own_us / weight
  local places = redis.call('ZRANGE', schedule_key(s), '(' .. RELEASED, number_text(tag + ROUNDING_US), 'BYSCORE',
    'LIMIT', 0, POSITION_OWNERS, 'WITHSCORES')
  for index = 1, #places, 2 do
    local other = owner_of(places[index])
    if other ~= owner then
      local mean, count = mean_us(s, other)
      local other_weight = number(redis.call('HGET', run_key(number_of(places[index]) or ''), 'weight'), 1)
      local starts = (tag - places[index + 1]) * other_weight / mean
      starts = math.floor(starts * RANK_PRECISION + 0.5) / RANK_PRECISION
      local before = math.max(0, math.min(count, math.ceil(starts)))
      if before == starts and before < count then
        local tied = redis.call('ZRANGE', queue_key(s, other), before, before)[1]
        before = before + ((not n or number(tied, 0) < tonumber(n)) and 1 or 0)
      end
      jobs, work_us = jobs + before, work_us + before * mean
    end
  end
  return { jobs, integer(work_us) }
end
