-- Start-time fair queueing between owners; the algorithm is told in fair_queue.py, which does the same.
-- A turn is {n, p, owner, cost_us, weight}. Every function is O(log n), but for the forgetting of tags, which is O(1) in
-- the mean: each is written once by a claim.
--
-- Fields of <prefix>work, microseconds of predicted work: us:<p> and jobs:<p> of a priority's waiting runs,
-- us:<p>:<owner> of an owner's in its queue, us:running what is left of running ones.

local PRIORITIES = 3
local OWNERS_DIGITS = 16

local function number_text(number)
  return string.format('%.17g', number)
end

local function get_turn(n)
  local p, owner, cost_us, weight = unpack(redis.call('HMGET', run_key(n), 'priority', 'owner', 'cost_us', 'weight'))
  return { n = n, p = p, owner = owner, cost_us = tonumber(cost_us), weight = tonumber(weight) }
end

local function queue_key(p, owner)
  return prefix .. 'queue:' .. p .. ':' .. owner
end

local function turns_key(p)
  return prefix .. 'turns:' .. p
end

-- At equal start tags the turns are sorted by these names: the older work first.
local function place_of(n, owner)
  return string.rep('0', OWNERS_DIGITS - #n) .. n .. ':' .. owner
end

local function owner_of(place)
  return string.sub(place, OWNERS_DIGITS + 2)
end

local function virtual_time(p)
  return tonumber(redis.call('HGET', key('virtual'), p) or 0)
end

local function start_tag(p, owner)
  return math.max(virtual_time(p), tonumber(redis.call('ZSCORE', key('tags:' .. p), owner) or 0))
end

local function oldest_of(p, owner)
  return redis.call('ZRANGE', queue_key(p, owner), 0, 0)[1]
end

local function enter_line(p, owner)
  local oldest = oldest_of(p, owner)
  if oldest then
    redis.call('ZADD', turns_key(p), number_text(start_tag(p, owner)), place_of(oldest, owner))
  else
    redis.call('HDEL', key('work'), 'us:' .. p .. ':' .. owner)
  end
end

local function leave_line(p, owner)
  local oldest = oldest_of(p, owner)
  if oldest then
    redis.call('ZREM', turns_key(p), place_of(oldest, owner))
  end
end

local function count_work(turn, jobs)
  redis.call('HINCRBY', key('work'), 'jobs:' .. turn.p, jobs)
  redis.call('HINCRBY', key('work'), 'us:' .. turn.p, integer(jobs * turn.cost_us))
end

local function count_own_work(turn, jobs)
  redis.call('HINCRBY', key('work'), 'us:' .. turn.p .. ':' .. turn.owner, integer(jobs * turn.cost_us))
end

local function add_turn(turn)
  count_work(turn, 1)
  count_own_work(turn, 1)
  redis.call('ZADD', queue_key(turn.p, turn.owner), turn.n, turn.n)
  if redis.call('ZCARD', queue_key(turn.p, turn.owner)) == 1 then
    enter_line(turn.p, turn.owner)
  end
end

local function put_back_turn(turn)
  count_work(turn, 1)
  redis.call('ZADD', key('returned:' .. turn.p), turn.n, turn.n)
end

-- Whose turn it is; it stays in line.
local function next_turn()
  for p = 0, PRIORITIES - 1 do
    local returned = redis.call('ZRANGE', key('returned:' .. p), 0, 0)[1]
    if returned then
      return returned
    end
    local place = redis.call('ZRANGE', turns_key(p), 0, 0)[1]
    if place then
      return oldest_of(p, owner_of(place))
    end
  end
end

local function drop_from_queue(turn)
  leave_line(turn.p, turn.owner)
  redis.call('ZREM', queue_key(turn.p, turn.owner), turn.n)
  count_own_work(turn, -1)
end

local function charge(turn, amount_us)
  local tag = start_tag(turn.p, turn.owner) + amount_us / turn.weight
  redis.call('ZADD', key('tags:' .. turn.p), number_text(tag), turn.owner)
  redis.call('ZREMRANGEBYSCORE', key('tags:' .. turn.p), '-inf', number_text(virtual_time(turn.p)))
end

-- Hands out work that waits. The virtual time moves only if it was its turn, not if it joins a batch.
local function take_turn(turn)
  count_work(turn, -1)
  if redis.call('ZREM', key('returned:' .. turn.p), turn.n) == 1 then
    return
  end
  if redis.call('ZRANGE', turns_key(turn.p), 0, 0)[1] == place_of(turn.n, turn.owner) then
    redis.call('HSET', key('virtual'), turn.p, number_text(start_tag(turn.p, turn.owner)))
  end
  drop_from_queue(turn)
  charge(turn, turn.cost_us)
  enter_line(turn.p, turn.owner)
end

-- Takes out work that will not be run; what it was charged is given back.
local function remove_turn(turn)
  count_work(turn, -1)
  if redis.call('ZREM', key('returned:' .. turn.p), turn.n) == 1 then
    leave_line(turn.p, turn.owner)
    charge(turn, -turn.cost_us)
  else
    drop_from_queue(turn)
  end
  enter_line(turn.p, turn.owner)
end

-- Nothing waits and nothing runs, which ends a busy period: who had how much is forgotten.
local function reset_turns()
  redis.call('DEL', key('tags:0'), key('tags:1'), key('tags:2'), key('virtual'))
end
