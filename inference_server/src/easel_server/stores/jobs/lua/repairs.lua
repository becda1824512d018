-- needs: jobs/runs
-- Finds what damage would leave unseen for ever: runs to which nothing leads any more. The reaper looks at some at a time.

local MAX_RESTORED = 1000
local CHECKED = 20 -- of each kind and priority a call; what waits longest comes first

-- Puts a run that waits back where claims look for it.
local function restore_place(run)
  local s, owner = schedule_of(run.priority, run.model), run.owner
  if run.given_back then
    local place = place_of(run.n, owner)
    if not (redis.call('ZSCORE', schedule_key(s), place) or redis.call('ZSCORE', schedule_key(run.priority), place)) then
      note_dropped('place', run.n)
      redis.call('ZADD', schedule_key(s), RELEASED, place)
    end
    return
  end
  local was_first = oldest_of(s, owner)
  if redis.call('ZADD', queue_key(s, owner), run.n, run.n) == 1 then
    note_dropped('place', run.n)
    look_again(run)
    count_work(s .. ':' .. owner, run.cost_us)
  end
  local first = oldest_of(s, owner)
  if first ~= was_first or not redis.call('ZSCORE', schedule_key(s), place_of(first, owner)) then
    note_dropped('place', first)
    if was_first and was_first ~= first then
      redis.call('ZREM', schedule_key(s), place_of(was_first, owner))
    end
    schedule_owner(s, owner, start_tag(s, owner, run.model))
  end
end

local function check_waiting(p, now)
  local first, last = integer(p * PRIORITY_SPAN), '(' .. integer((p + 1) * PRIORITY_SPAN)
  for _, n in ipairs(redis.call('ZRANGE', key('waiting'), first, last, 'BYSCORE', 'LIMIT', 0, CHECKED)) do
    local run = find_run(n, now)
    if run and run.state == 'Waiting' then
      restore_place(run)
      note_model(run.model, now)
      local deadline_us = redis.call('HGET', job_key(run.leader), 'deadline_us')
      if number(deadline_us) then
        redis.call('ZADD', deadlines_key(run.model), 'NX', deadline_us, run.leader)
      end
    elseif run then
      redis.call('ZREM', key('waiting'), n)
    end
  end
end

-- Counts runs that are in a schedule as waiting, should that list be lost.
local function check_schedule(p, s)
  for _, place in ipairs(redis.call('ZRANGE', schedule_key(s), 0, CHECKED - 1)) do
    local n = number_of(place)
    local run = n and not redis.call('ZSCORE', key('waiting'), n) and load_run(n)
    if run and run.state == 'Waiting' then
      note_dropped('place', n)
      redis.call('ZADD', key('waiting'), integer(p * PRIORITY_SPAN + n), n)
      for _, other in ipairs(redis.call('ZRANGE', queue_key(s, owner_of(place)), 0, MAX_RESTORED - 1)) do
        redis.call('ZADD', key('waiting'), integer(p * PRIORITY_SPAN + other), other)
      end
    end
  end
end

-- Lets claims expire whose lease was lost, and forgets those of runs that are over.
local function check_claims(now)
  local claims = redis.call('HRANDFIELD', key('claims'), CHECKED, 'WITHVALUES')
  for index = 1, #claims, 2 do
    local run = find_claimed(claims[index], now)
    if run and not redis.call('ZSCORE', key('running'), run.n) then
      note_dropped('place', run.n)
      redis.call('ZADD', key('running'), integer(now + run.lease_us), run.n)
    end
  end
end

-- Forgets what is kept of the excess of runs that are elsewhere by now.
local function check_excess()
  for _, n in ipairs(redis.call('HRANDFIELD', key('excess:waiting'), CHECKED)) do
    if not redis.call('ZSCORE', key('waiting'), n) then
      forget_waiting_excess(n)
    end
  end
  local running = redis.call('HRANDFIELD', key('excess:running'), CHECKED)
  for _, n in ipairs(redis.call('HRANDFIELD', key('overrunning'), CHECKED)) do
    running[#running + 1] = n
  end
  for _, n in ipairs(running) do
    if not redis.call('ZSCORE', key('running'), n) then
      forget_running_excess(n)
    end
  end
end

local function check_references(now)
  local models = redis.call('ZRANGE', key('models'), 0, CHECKED - 1)
  for p = 0, LAST_PRIORITY do
    check_waiting(p, now)
    check_schedule(p, schedule_of(p, nil))
    for _, model in ipairs(models) do
      check_schedule(p, schedule_of(p, model))
    end
  end
  check_claims(now)
  check_excess()
end
