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

-- How many of an owner's runs its turns would take before the one with this rank and these terms; see count_before in
-- fair_queue.py.
local function count_before(s, owner, rank, run, now)
  if not number(run.start_by_us) then
    return rank
  end
  local function terms_at(index)
    local n = redis.call('ZRANGE', queue_key(s, owner), index, index)[1]
    local start_by_us, first_from_us = unpack(redis.call('HMGET', run_key(n or ''), 'start_by_us', 'first_from_us'))
    return { start_by_us = start_by_us, first_from_us = first_from_us }
  end
  local count = redis.call('ZCARD', queue_key(s, owner))
  local function find_index(low, is_so)
    local high = count
    while low < high do
      local middle = math.floor((low + high) / 2)
      if is_so(terms_at(middle)) then
        high = middle
      else
        low = middle + 1
      end
    end
    return low
  end
  local is_own_timely = is_timely(run, now)
  if is_own_timely and (rank == 0 or is_timely(terms_at(0), now)) then
    return rank
  end
  local waited = find_index(0, function(other)
    return now < number(other.first_from_us, 0)
  end)
  local first, from_us = find_first(s, owner)
  if first and from_us and from_us <= now then
    waited = math.max(waited, redis.call('ZCOUNT', queue_key(s, owner), '-inf', integer(first)))
  end
  if rank < waited then
    return rank
  end
  local timely = find_index(waited, function(other)
    return is_timely(other, now)
  end)
  if is_own_timely then
    return waited + math.max(0, rank - timely)
  end
  return rank + math.max(0, count - math.max(timely, rank + 1))
end

-- {jobs ahead, microseconds of predicted work ahead} of the run with number n, before which so many of its owner's queue
-- go; or of one that comes next, if n is nil. Every argument but n and before is needed if the run was released.
local function estimate_position(p, model, owner, weight, own_before, n)
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

  local own_us = own_before > 0 and mean_us(s, owner) * own_before or 0
  jobs, work_us = jobs + own_before, work_us + own_us
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
