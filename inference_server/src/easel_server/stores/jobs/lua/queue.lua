-- needs: jobs/fields
-- Start-time fair queueing between owners; fair_queue.py explains the algorithm, and does the same. Runs come as
-- load_run gives them. Every function is O(log n).
--
-- Fields of <prefix>work, microseconds of predicted work: us:<p> of a priority's waiting runs, us:<p>:<owner> of an
-- owner's in its queue, us:running what is left of running ones.

local LAST_PRIORITY = 2
local NUMBER_DIGITS = 16
local PRIORITY_SPAN = 2 ^ 44 -- scores of <prefix>waiting are p * PRIORITY_SPAN + n, so that each priority can be counted
local MAX_WAKEUPS = 100
local RELEASED = '-inf'

local function queue_key(p, owner)
  return prefix .. 'queue:' .. p .. ':' .. owner
end

local function schedule_key(p)
  return prefix .. 'turns:' .. p
end

-- At equal start tags the schedule is sorted by these names: the older work first.
local function place_of(n, owner)
  return string.rep('0', NUMBER_DIGITS - #n) .. n .. ':' .. owner
end

local function number_of(place)
  return string.match(place, '^0*(%d+):')
end

local function owner_of(place)
  return string.sub(place, NUMBER_DIGITS + 2)
end

local function start_tag(p, owner)
  local virtual, tag = redis.call('HGET', key('virtual'), p), redis.call('ZSCORE', key('tags:' .. p), owner)
  return math.max(tonumber(virtual or 0), tonumber(tag or 0))
end

local function oldest_of(p, owner)
  return redis.call('ZRANGE', queue_key(p, owner), 0, 0)[1]
end

local function count_work(field, difference_us)
  redis.call('HINCRBY', key('work'), 'us:' .. field, integer(difference_us))
end

-- Gives the owner, whose next start tag is given, its place in the schedule by its oldest run, if it has any.
local function schedule_owner(p, owner, tag)
  local oldest = oldest_of(p, owner)
  if oldest then
    redis.call('ZADD', schedule_key(p), number_text(tag), place_of(oldest, owner))
  else
    redis.call('HDEL', key('work'), 'us:' .. p .. ':' .. owner)
  end
end

-- A wake-up more than there are sleepers costs them a look; one less could cost a second.
local function add_waiting(run)
  count_work(run.priority, run.cost_us)
  redis.call('ZADD', key('waiting'), integer(run.priority * PRIORITY_SPAN + run.n), run.n)
  if redis.call('LLEN', key('bell')) < MAX_WAKEUPS then
    redis.call('RPUSH', key('bell'), '1')
  end
end

local function remove_waiting(run)
  count_work(run.priority, 0 - run.cost_us)
  redis.call('ZREM', key('waiting'), run.n)
end

local function queue_run(run)
  local p, owner = run.priority, run.owner
  add_waiting(run)
  count_work(p .. ':' .. owner, run.cost_us)
  redis.call('ZADD', queue_key(p, owner), run.n, run.n)
  local oldest, second = unpack(redis.call('ZRANGE', queue_key(p, owner), 0, 1))
  if oldest ~= run.n then
    return
  end
  if second then
    redis.call('ZREM', schedule_key(p), place_of(second, owner))
  end
  redis.call('ZADD', schedule_key(p), number_text(start_tag(p, owner)), place_of(run.n, owner))
end

local function requeue_run(run)
  add_waiting(run)
  redis.call('HSET', run_key(run.n), 'given_back', 1)
  redis.call('ZADD', schedule_key(run.priority), RELEASED, place_of(run.n, run.owner))
end

-- The number of the run that is next; it stays in the schedule.
local function first_in_schedule()
  for p = 0, LAST_PRIORITY do
    local place = redis.call('ZRANGE', schedule_key(p), 0, 0)[1]
    if place then
      return number_of(place)
    end
  end
end

-- Takes the run out of its owner's queue, and the owner out of the schedule.
local function unschedule_run(run)
  local p, owner = run.priority, run.owner
  redis.call('ZREM', schedule_key(p), place_of(oldest_of(p, owner), owner))
  redis.call('ZREM', queue_key(p, owner), run.n)
  count_work(p .. ':' .. owner, 0 - run.cost_us)
end

-- Hands out a run that waits. The virtual time moves only if it was next, not if it joins a batch.
local function take_run(run)
  local p, owner = run.priority, run.owner
  local place = place_of(run.n, owner)
  remove_waiting(run)
  if run.given_back then
    redis.call('ZREM', schedule_key(p), place)
    redis.call('HDEL', run_key(run.n), 'given_back')
    return
  end
  local tag = start_tag(p, owner)
  if redis.call('ZRANGE', schedule_key(p), 0, 0)[1] == place then
    redis.call('HSET', key('virtual'), p, number_text(tag))
  end
  unschedule_run(run)
  tag = tag + run.cost_us / run.weight
  redis.call('ZADD', key('tags:' .. p), number_text(tag), owner)
  schedule_owner(p, owner, tag)
end

-- Takes out a run that will not be handed out; what it was charged is refunded.
local function remove_run(run)
  local p, owner = run.priority, run.owner
  remove_waiting(run)
  local tag = start_tag(p, owner)
  if not run.given_back then
    unschedule_run(run)
    return schedule_owner(p, owner, tag)
  end
  redis.call('ZREM', schedule_key(p), place_of(run.n, owner))
  redis.call('ZADD', key('tags:' .. p), number_text(tag - run.cost_us / run.weight), owner)
  schedule_owner(p, owner, start_tag(p, owner))
end

-- Forgets tags that the virtual time has passed.
local function purge_tags()
  for p = 0, LAST_PRIORITY do
    redis.call('ZREMRANGEBYSCORE', key('tags:' .. p), '-inf', redis.call('HGET', key('virtual'), p) or 0)
  end
end

-- Nothing waits and nothing runs, which ends a busy period: who had how much is forgotten.
local function reset_schedule()
  redis.call('DEL', key('tags:0'), key('tags:1'), key('tags:2'), key('virtual'))
end
