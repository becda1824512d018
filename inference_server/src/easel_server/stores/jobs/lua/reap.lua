#!lua flags=allow-oom
-- needs: jobs/repairs
-- ARGV: most runs and most jobs to move, error for a passed deadline, error for a lost run with %s for the count and the
-- worker, seconds that a silent worker counts, error for a model that is served no longer with %s for its name, seconds
-- after which it isn't, models that the caller serves. Returns {requeued, failed, canceled,
-- what was dropped since the last reap as "<kind> <id>", whether there was any}.
local limit, deadline_error, lost_error, seen_seconds = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local unserved_error, unserved_seconds = ARGV[5], tonumber(ARGV[6])
local FIRST_MODEL = 7

local now = now_us()
local requeued, failed, canceled = 0, 0, 0
for index = FIRST_MODEL, #ARGV do
  redis.call('ZADD', key('models'), integer(now), ARGV[index])
end
for _, n in ipairs(redis.call('ZRANGE', key('running'), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, limit)) do
  local run = find_run(n, now)
  if not run then
    failed = failed + 1
  elseif run.state ~= 'Running' then
    redis.call('ZREM', key('running'), n)
  elseif run.cancel_requested then
    end_run(run, 'Canceled', now)
    canceled = canceled + 1
  elseif tonumber(run.attempts) >= tonumber(run.max_attempts) then
    end_run(run, 'Failed', now, string.format(lost_error, run.attempts, run.worker))
    failed = failed + 1
  else
    release_run(run, now)
    requeued = requeued + 1
  end
end
for _, deadlines in ipairs({ deadlines_key(nil), deadlines_key(true) }) do
  for _, id in ipairs(redis.call('ZRANGE', deadlines, '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, limit)) do
    local n, state = unpack(redis.call('HMGET', job_key(id), 'run', 'state'))
    local run = n and not state and find_run(n, now)
    if run then
      leave_run(id, run, 'Failed', now, deadline_error)
    elseif n and is_orphan(id) then
      end_orphan(id, now)
    elseif not n then
      drop_job(id)
    end
    redis.call('ZREM', deadlines, id)
    failed = failed + 1
  end
end

-- A place in a schedule of the model, and that schedule.
local function find_place(model)
  for p = 0, LAST_PRIORITY do
    local s = schedule_of(p, model)
    local place = redis.call('ZRANGE', schedule_key(s), 0, 0)[1]
    if place then
      return place, s
    end
  end
end

local unserved_since = '(' .. integer(now - unserved_seconds * 1000000)
for _, model in ipairs(redis.call('ZRANGE', key('models'), '-inf', unserved_since, 'BYSCORE')) do
  local ended, place, s = 0, find_place(model)
  while place and ended < limit do
    local n = number_of(place)
    local run, left = load_run(n or '')
    if run and run.state == 'Waiting' and place == place_of(n, run.owner) and run.model == model then
      local name = redis.call('HGET', job_key(run.leader), 'model_name') or model
      end_run(run, 'Failed', now, string.format(unserved_error, name))
      ended = ended + 1
    else -- damaged, or a process of the earlier version ended it, and knew of no model
      if left and n and redis.call('ZSCORE', key('waiting'), n) then
        drop_run(n, left, now)
      end
      drop_place(place, s, model)
    end
    place, s = find_place(model)
  end
  failed = failed + ended
  if not place then
    forget_schedules(model)
    redis.call('ZREM', key('models'), model)
    redis.call('DEL', wakeups_key(model), joining_key(model))
  end
end
purge_tags()
check_references(now)
redis.call('ZREMRANGEBYSCORE', key('workers'), '-inf', integer(now - seen_seconds * 1000000))
return { requeued, failed, canceled, redis.call('LRANGE', key('dropped'), 0, -1), redis.call('DEL', key('dropped')) }
