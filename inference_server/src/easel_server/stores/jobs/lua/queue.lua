-- needs: jobs/bounded
-- Start-time fair queueing between owners; fair_queue.py explains the algorithm, and does the same. Runs come as
-- load_run gives them. Every function is O(log n), and in the number of models that are waited for.
--
-- Each priority has a schedule for each model, and one for runs without a model, which is named by the priority alone:
-- so were all of an earlier version, whose runs wait there for anybody. What is added for models stands under keys that
-- scripts of that version don't touch: they couldn't follow.
--
-- Fields of <prefix>work, microseconds of predicted work: us:<p> of a priority's waiting runs, us:<s>:<owner> of an
-- owner's in its queue, us:running what is left of running ones. And late:<s>:<owner>, up to which number none of an
-- owner's runs in its queue can finish within its target any more. And first:<s>:<owner>, "<n> <microseconds>": from then
-- on none of an owner's runs up to that number is overtaken, whatever bound it came with itself.

local LAST_PRIORITY = 2
local NUMBER_DIGITS = 16
local PRIORITY_SPAN = 2 ^ 44 -- scores of <prefix>waiting are p * PRIORITY_SPAN + n, so that each priority can be counted
local MAX_WAKEUPS = 100
local RELEASED = '-inf'
local LATE_ENTRIES, LATE_CHUNK = 500, 20 -- passed by one look for a timely run, as in fair_queue.py

-- The name of the schedule of a priority and a model; no model is nil.
local function schedule_of(p, model)
  return model and p .. '/' .. model or p
end

local function queue_key(s, owner)
  return prefix .. 'queue:' .. s .. ':' .. owner
end

local function schedule_key(s)
  return prefix .. 'turns:' .. s
end

local function virtual_key(model)
  return key(model and 'virtual/models' or 'virtual')
end

local function wakeups_key(model)
  return key(model and 'bell/' .. model or 'bell')
end

-- Those who could also take another job beside theirs sleep on lists of their own: else they would take the wake-ups of
-- those who have nothing to do.
local function joining_key(model)
  return key(model and 'joining/' .. model or 'joining')
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

local function start_tag(s, owner, model)
  local virtual, tag = redis.call('HGET', virtual_key(model), s), redis.call('ZSCORE', key('tags:' .. s), owner)
  return math.max(number(virtual, 0), number(tag, 0))
end

local function oldest_of(s, owner)
  local n = redis.call('ZRANGE', queue_key(s, owner), 0, 0)[1]
  while n and not string.find(n, '^%d+$') do
    note_dropped('place', n)
    redis.call('ZREM', queue_key(s, owner), n)
    n = redis.call('ZRANGE', queue_key(s, owner), 0, 0)[1]
  end
  return n
end

-- An owner's runs that wait for the model, or for none. Released ones don't count: they had their place before.
local function count_waiting(owner, model)
  local count = 0
  for p = 0, LAST_PRIORITY do
    count = count + redis.call('ZCARD', queue_key(schedule_of(p, nil), owner))
    if model then
      count = count + redis.call('ZCARD', queue_key(schedule_of(p, model), owner))
    end
  end
  return count
end

-- Whether a run has a target, and can still finish within it.
local function is_timely(run, now)
  local start_by = number(run.start_by_us)
  return start_by and now <= start_by
end

local function late_field(s, owner)
  return 'late:' .. s .. ':' .. owner
end

local function first_field(s, owner)
  return 'first:' .. s .. ':' .. owner
end

-- Up to which number none of an owner's runs is overtaken any more, and from when on; nothing if there is none.
local function find_first(s, owner)
  local n, from_us = string.match(redis.call('HGET', key('work'), first_field(s, owner)) or '', '^(%d+) (%d+)$')
  return number(n), number(from_us)
end

-- Whether later runs of its owner that are timely go before it.
local function is_overtaken(s, run, owner, now)
  local start_by = number(run.start_by_us)
  if not (start_by and start_by < now and now < number(run.first_from_us, 0)) then
    return false
  end
  local n, from_us = find_first(s, owner)
  return not (n and from_us and tonumber(run.n) <= n and from_us <= now)
end

-- Keeps the soonest bound, if this run behind the oldest has it: else older ones that came with longer bounds would hold it
-- up for as long as theirs. As FairQueue does.
local function note_bound(s, run, oldest)
  local first_from_us = number(run.first_from_us)
  if not first_from_us then
    return
  end
  local n, from_us = find_first(s, run.owner)
  if not (n and from_us) or n < tonumber(oldest) or (n < tonumber(run.n) and first_from_us <= from_us) then
    redis.call('HSET', key('work'), first_field(s, run.owner), run.n .. ' ' .. integer(first_from_us))
  end
end

local function late_until(s, owner)
  return number(redis.call('HGET', key('work'), late_field(s, owner)), 0)
end

-- The oldest of an owner's runs that is timely. Those before it are passed once, since they stay late.
local function find_timely(s, owner, now)
  local known = late_until(s, owner)
  local late, looks, found = known, 0, nil
  while not found and looks < LATE_ENTRIES do
    local chunk = redis.call('ZRANGE', queue_key(s, owner), '(' .. integer(late), '+inf', 'BYSCORE', 'LIMIT', 0, LATE_CHUNK)
    for _, n in ipairs(chunk) do
      if is_timely({ start_by_us = redis.call('HGET', run_key(n), 'start_by_us') }, now) then
        found = n
        break
      end
      late = number(n, late)
    end
    looks = #chunk == LATE_CHUNK and looks + LATE_CHUNK or LATE_ENTRIES
  end
  if late ~= known then
    redis.call('HSET', key('work'), late_field(s, owner), integer(late))
  end
  return found
end

-- Forgets that a run isn't timely.
local function look_again(run)
  local s = schedule_of(run.priority, run.model)
  if late_until(s, run.owner) >= tonumber(run.n) then
    redis.call('HSET', key('work'), late_field(s, run.owner), integer(run.n - 1))
  end
end

local function count_work(field, difference_us)
  redis.call('HINCRBY', key('work'), 'us:' .. field, integer(difference_us))
end

-- Gives the owner, whose next start tag is given, its place in the schedule by its oldest run, if it has any.
local function schedule_owner(s, owner, tag)
  local oldest = oldest_of(s, owner)
  if oldest then
    redis.call('ZADD', schedule_key(s), number_text(tag), place_of(oldest, owner))
  else
    redis.call('HDEL', key('work'), 'us:' .. s .. ':' .. owner, late_field(s, owner), first_field(s, owner))
  end
end

-- From now on it counts how long nobody serves a model for which something waits.
local function note_model(model, now)
  if model then
    redis.call('ZADD', key('models'), 'NX', integer(now), model)
  end
end

-- A wake-up more than there are sleepers costs them a look; one less could cost a second.
local function add_waiting(run)
  count_work(run.priority, run.cost_us)
  note_waiting_excess(run)
  redis.call('ZADD', key('waiting'), integer(run.priority * PRIORITY_SPAN + run.n), run.n)
  for _, wakeups in ipairs({ wakeups_key(run.model), joining_key(run.model) }) do
    if redis.call('LLEN', wakeups) < MAX_WAKEUPS then
      redis.call('RPUSH', wakeups, '1')
    end
  end
end

local function remove_waiting(run)
  if redis.call('ZREM', key('waiting'), run.n) == 1 then -- else a process of the earlier version got as far as this
    count_work(run.priority, 0 - run.cost_us)
  end
  forget_waiting_excess(run.n)
end

local function queue_run(run, now)
  local s, owner = schedule_of(run.priority, run.model), run.owner
  add_waiting(run)
  count_work(s .. ':' .. owner, run.cost_us)
  redis.call('ZADD', queue_key(s, owner), run.n, run.n)
  local oldest, second = unpack(redis.call('ZRANGE', queue_key(s, owner), 0, 1))
  if oldest ~= run.n then
    return note_bound(s, run, number(oldest, 0))
  end
  if second then
    redis.call('ZREM', schedule_key(s), place_of(second, owner))
  else
    note_model(run.model, now)
  end
  redis.call('ZADD', schedule_key(s), number_text(start_tag(s, owner, run.model)), place_of(run.n, owner))
end

local function requeue_run(run, now)
  add_waiting(run)
  note_model(run.model, now)
  redis.call('HSET', run_key(run.n), 'given_back', 1)
  redis.call('ZADD', schedule_key(schedule_of(run.priority, run.model)), RELEASED, place_of(run.n, run.owner))
end

-- Brings a released run from the schedule without a model, which is all that processes of the earlier version know, to
-- its own.
local function reschedule_released(run, place, s, now)
  redis.call('ZREM', schedule_key(s), place)
  redis.call('ZADD', schedule_key(schedule_of(run.priority, run.model)), RELEASED, place)
  note_model(run.model, now)
end

-- Takes a released run out of its schedule, or of the one to which a process of the earlier version released it.
local function unschedule_released(run)
  local place = place_of(run.n, run.owner)
  redis.call('ZREM', schedule_key(schedule_of(run.priority, run.model)), place)
  if run.model then
    redis.call('ZREM', schedule_key(run.priority), place)
  end
end

-- How far a place with this score is ahead of its schedule's virtual time.
local function lead_of(score, s, model)
  return tonumber(score) - (score ~= RELEASED and number(redis.call('HGET', virtual_key(model), s), 0) or 0)
end

-- The place, schedule and that one's model of the run that is next for who holds the first of these ``count`` models, the
-- last of them nil for none; it stays in its schedule.
local function find_next(models, count)
  for p = 0, LAST_PRIORITY do
    local best, best_score, best_s, best_model
    for index = 1, count do
      local model = models[index]
      local s = schedule_of(p, model)
      local place, score = unpack(redis.call('ZRANGE', schedule_key(s), 0, 0, 'WITHSCORES'))
      if place then
        if not best then
          best, best_score, best_s, best_model = place, score, s, model
        else
          local lead = lead_of(score, s, model)
          local best_lead = lead_of(best_score, best_s, best_model)
          if lead < best_lead or (lead == best_lead and place < best) then
            best, best_score, best_s, best_model = place, score, s, model
          end
        end
      end
    end
    if best then
      return best, best_s, best_model
    end
  end
end

-- Takes the run out of its owner's queue, and the owner out of the schedule.
local function unschedule_run(s, run)
  local owner = run.owner
  redis.call('ZREM', schedule_key(s), place_of(oldest_of(s, owner) or run.n, owner), place_of(run.n, owner))
  redis.call('ZREM', queue_key(s, owner), run.n)
  count_work(s .. ':' .. owner, 0 - run.cost_us)
end

-- Takes a run that waits. The virtual time moves only if its owner's turn took it, whose place it then has, not if it
-- joins a batch out of turn.
local function take_run(run)
  local s, owner = schedule_of(run.priority, run.model), run.owner
  remove_waiting(run)
  if run.given_back then
    unschedule_released(run)
    redis.call('HDEL', run_key(run.n), 'given_back')
    return
  end
  local tag = start_tag(s, owner, run.model)
  if redis.call('ZRANGE', schedule_key(s), 0, 0)[1] == (run.place or place_of(run.n, owner)) then
    redis.call('HSET', virtual_key(run.model), s, number_text(tag))
  end
  unschedule_run(s, run)
  tag = tag + run.cost_us / run.weight
  redis.call('ZADD', key('tags:' .. s), number_text(tag), owner)
  schedule_owner(s, owner, tag)
end

-- Removes a run that will not be claimed; what it was charged is refunded.
local function remove_run(run)
  local s, owner = schedule_of(run.priority, run.model), run.owner
  remove_waiting(run)
  local tag = start_tag(s, owner, run.model)
  if not run.given_back then
    unschedule_run(s, run)
    return schedule_owner(s, owner, tag)
  end
  unschedule_released(run)
  redis.call('ZADD', key('tags:' .. s), number_text(tag - run.cost_us / run.weight), owner)
  schedule_owner(s, owner, start_tag(s, owner, run.model))
end

-- Takes a place out of its schedule whose run is gone, damaged, or isn't where it says; the owner's next one follows.
local function drop_place(place, s, model)
  redis.call('ZREM', schedule_key(s), place)
  local n, owner = number_of(place), owner_of(place)
  if n then
    redis.call('ZREM', queue_key(s, owner), n)
    schedule_owner(s, owner, start_tag(s, owner, model))
  end
end

-- Forgets tags that the virtual time has passed.
local function purge_tags()
  local function purge(p, model)
    local s = schedule_of(p, model)
    redis.call('ZREMRANGEBYSCORE', key('tags:' .. s), '-inf',
      number_text(number(redis.call('HGET', virtual_key(model), s), 0)))
  end
  for p = 0, LAST_PRIORITY do
    purge(p, nil)
    for _, model in ipairs(redis.call('ZRANGE', key('models'), 0, -1)) do
      purge(p, model)
    end
  end
end

-- Forgets who had how much of a model for which nothing waits.
local function forget_schedules(model)
  for p = 0, LAST_PRIORITY do
    local s = schedule_of(p, model)
    redis.call('DEL', key('tags:' .. s))
    redis.call('HDEL', virtual_key(model), s)
  end
end

-- Nothing waits and nothing runs, which ends a busy period: who had how much is forgotten.
local function reset_schedules()
  local forgotten = { key('tags:0'), key('tags:1'), key('tags:2'), key('virtual'), key('virtual/models'), key('work'),
    key('leaders') }
  for _, model in ipairs(redis.call('ZRANGE', key('models'), 0, -1)) do
    for p = 0, LAST_PRIORITY do
      forgotten[#forgotten + 1] = key('tags:' .. schedule_of(p, model))
    end
  end
  redis.call('DEL', unpack(forgotten))
  reset_excess()
end
