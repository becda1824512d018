#!lua flags=allow-oom
-- needs: jobs/runs
-- ARGV: token, worker, lease_us, max_attempts, error for a passed deadline, max_jobs, max_images, models.
-- Returns a list of {token, job, inputs, whether they are references to a bucket (1 or 0), how many inputs it had}; empty if nothing waits for a
-- worker that holds these models.
-- Claims are allowed when memory is short: finished jobs are what frees it.
local token, worker, lease_us, max_attempts, deadline_error = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local max_jobs, max_images = tonumber(ARGV[6]), tonumber(ARGV[7])
local FIRST_MODEL = 8
local BATCH_OWNERS, BATCH_ENTRIES = 16, 16 -- looked at for a batch, as in fair_queue.py

local now = now_us()
local claims, models, is_held = {}, {}, {}
for index = FIRST_MODEL, #ARGV do
  models[#models + 1] = ARGV[index]
  is_held[ARGV[index]] = true
end
local schedules = #models + 1 -- a priority: the last one has no model
redis.call('ZADD', key('workers'), integer(now), worker)

local function add_claim(run)
  local inputs = run.inputs and redis.call('HGETALL', key('inputs:' .. run.n)) or {}
  claims[#claims + 1] =
    { run.token, view(run.leader, run), inputs, run.input_entry and 1 or 0, number(run.inputs, 0) }
end

local function claim(run)
  take_run(run)
  run.token = token .. '.' .. (#claims + 1)
  run.state, run.attempts, run.worker = 'Running', integer(run.attempts + 1), worker
  run.started_us, run.steps_done = integer(now), '0'
  redis.call('HSET', run_key(run.n), 'state', run.state, 'attempts', run.attempts, 'worker', worker, 'started_us',
    run.started_us, 'steps_done', 0, 'token', run.token, 'lease_us', ARGV[3], 'max_attempts', max_attempts, 'rest_us',
    run.cost_us)
  redis.call('HSET', key('claims'), run.token, run.n)
  redis.call('ZADD', key('running'), integer(now + lease_us), run.n)
  redis.call('ZREM', deadlines_key(run.model), run.leader)
  count_work('running', run.cost_us)
  publish_change(run)
  add_claim(run)
end

-- Runs of the same priority, model and batch key, in schedule order.
local function batch_candidates(first)
  local found = {}
  local function consider(n, tag)
    local batch, cost_us, weight = unpack(redis.call('HMGET', run_key(n or ''), 'batch', 'cost_us', 'weight'))
    if batch == first.batch and n ~= first.n then
      found[#found + 1] = { n = n, tag = tag }
    end
    return number(cost_us) and tag + cost_us / math.max(1, number(weight, 1)) or tag
  end
  local s = schedule_of(first.priority, first.model)
  local schedule = schedule_key(s)
  for _, place in ipairs(redis.call('ZRANGE', schedule, '-inf', RELEASED, 'BYSCORE', 'LIMIT', 0, BATCH_ENTRIES)) do
    consider(number_of(place), -1)
  end
  local places = redis.call('ZRANGE', schedule, '(' .. RELEASED, '+inf', 'BYSCORE', 'LIMIT', 0, BATCH_OWNERS, 'WITHSCORES')
  for index = 1, #places, 2 do
    local tag = tonumber(places[index + 1])
    for _, n in ipairs(redis.call('ZRANGE', queue_key(s, owner_of(places[index])), 0, BATCH_ENTRIES - 1)) do
      tag = consider(n, tag)
    end
  end
  table.sort(found, function(a, b)
    return a.tag < b.tag or (a.tag == b.tag and tonumber(a.n) < tonumber(b.n))
  end)
  return found
end

-- The run at a place, if it is what the place says; else it is dropped, unless it is merely over: a process of the earlier
-- version, which knew of no model, ended it.
local function find_place_run(n, place, s)
  local run, left = load_run(n)
  if run and run.state == 'Waiting' and place == place_of(n, run.owner)
    and (tostring(s) == schedule_of(run.priority, run.model) or tostring(s) == run.priority) then
    return run
  elseif run and run.state == 'Running' then
    return nil
  elseif run or next(left, next(left)) or redis.call('ZSCORE', key('waiting'), n) then
    drop_run(n, run or left, now)
  end
end

local function next_run()
  local place, s, model = find_next(models, schedules)
  while place do
    local n = number_of(place)
    local run = n and find_place_run(n, place, s)
    if not run then
      drop_place(place, s, model)
    elseif run.model and not is_held[run.model] then -- a process of the earlier version released it
      reschedule_released(run, place, s, now)
    elseif is_in_time(run, now, deadline_error) then
      return run
    end
    place, s, model = find_next(models, schedules)
  end
end

local repeated = redis.call('HGET', key('claims'), token .. '.1')
while repeated do
  local run = find_run(repeated, now)
  if not run then
    break
  end
  add_claim(run)
  repeated = redis.call('HGET', key('claims'), token .. '.' .. (#claims + 1))
end
if #claims > 0 then
  return claims
end

local first = next_run()
if not first then
  local wakeups = { wakeups_key(nil) }
  for _, model in ipairs(models) do
    wakeups[#wakeups + 1] = wakeups_key(model)
  end
  redis.call('DEL', unpack(wakeups))
  return claims
end
local others = max_jobs > 1 and batch_candidates(first) or {}
local images = tonumber(first.images)
claim(first)
for _, other in ipairs(others) do
  if #claims == max_jobs then
    break
  end
  local run = load_run(other.n)
  if run and run.state == 'Waiting' and images + run.images <= max_images and is_in_time(run, now, deadline_error) then
    claim(run)
    images = images + run.images
  end
end
return claims
