-- needs: jobs/queue outbox/enqueue images/books
-- Transitions of runs and of their jobs, see job.py. Runs come as load_run gives them. What concerns all jobs of a run is
-- bounded by the number of followers that a flight may have.

local PREVIEWS_KEPT_MS = 60000

local function publish_change(run)
  if run.watched then
    redis.call('PUBLISH', key('changes'), '#' .. run.n)
  end
end

-- Gives a run that succeeds the images in the arguments from this one on: what its jobs say of them, beginning with their
-- bytes; of those that are in a bucket the books' entry and keys of objects ('' of others); others themselves.
local function set_images(run, first)
  run.images_kept, run.announced, run.object_keys = ARGV[first], ARGV[first + 1], ARGV[first + 2]
  if ARGV[first + 3] then
    redis.call('RPUSH', key('images:' .. run.n), unpack(ARGV, first + 3))
  end
end

local function deadlines_key(model)
  return key(model and 'deadlines/models' or 'deadlines')
end

-- Ends one job, which is no longer of the run or ends with it. Returns how long it is kept, in milliseconds.
local function make_final(id, run, state, now, error)
  local ttl_ms, webhook, deadline_us, model =
    unpack(redis.call('HMGET', job_key(id), 'result_ttl_ms', 'webhook', 'deadline_us', 'model'))
  local fields = { 'state', state, 'finished_us', integer(now) }
  append_progress(fields, run)
  if error then
    fields[#fields + 1] = 'error'
    fields[#fields + 1] = error
  end
  if run.images_kept and state == 'Succeeded' then
    fields[#fields + 1] = 'images'
    fields[#fields + 1] = run.images_kept
  end
  for _, name in ipairs({ 'generated_by', 'generation_warnings' }) do
    if run[name] then
      fields[#fields + 1] = name
      fields[#fields + 1] = run[name]
    end
  end
  redis.call('HSET', job_key(id), unpack(fields))
  if deadline_us then
    redis.call('ZREM', deadlines_key(model), id)
  end
  if webhook then
    enqueue_delivery(id, webhook, 'completed', now)
  end
  redis.call('PEXPIRE', job_key(id), ttl_ms)
  redis.call('PUBLISH', key('changes'), '=' .. id)
  return tonumber(ttl_ms)
end

-- Lets a run that waits go with the priority of a job that joined it, if that is higher.
local function lift_run(run, priority, now)
  if run.state == 'Waiting' and priority < run.priority then
    remove_run(run)
    redis.call('HDEL', run_key(run.n), 'given_back')
    redis.call('HSET', run_key(run.n), 'priority', priority)
    run.priority = priority
    queue_run(run, now)
  end
end

local function close_flight(run)
  if run.flight and redis.call('GET', key('flight:' .. run.flight)) == run.n then
    redis.call('DEL', key('flight:' .. run.flight))
  end
end

local function drop_claim(run)
  redis.call('ZREM', key('running'), run.n)
  redis.call('HDEL', key('claims'), run.token)
  count_work('running', 0 - run.rest_us)
end

-- Ends a run and all its jobs.
local function end_run(run, state, now, error)
  local n = run.n
  if run.state == 'Waiting' then
    remove_run(run)
  else
    drop_claim(run)
  end
  close_flight(run)
  local ttl_ms, jobs = make_final(run.leader, run, state, now, error), 1
  if run.joined then
    for _, id in ipairs(redis.call('ZRANGE', key('followers:' .. n), 0, -1)) do
      ttl_ms = math.max(ttl_ms, make_final(id, run, state, now, error))
      jobs = jobs + 1
    end
  end
  redis.call('DEL', run_key(n), key('followers:' .. n), key('inputs:' .. n))
  if run.input_entry then
    redis.call('ZADD', key('image:object_expiry'), 'XX', integer(now), run.input_entry)
  end
  if run.images_kept then
    keep_images(run, jobs, ttl_ms, now)
  else
    free_room(run)
  end
  if run.previews ~= '0' then
    redis.call('PEXPIRE', key('previews:' .. n), PREVIEWS_KEPT_MS)
  end
  run.is_over = true
  if redis.call('ZCARD', key('running')) == 0 and redis.call('ZCARD', key('waiting')) == 0 then
    reset_schedules()
    redis.call('HDEL', key('image:sums'), 'reserved') -- an earlier version ended runs without freeing it
  end
end

local function has_followers(run)
  return run.joined and redis.call('ZCARD', key('followers:' .. run.n)) > 0
end

local function promote_follower(run)
  run.leader = redis.call('ZPOPMIN', key('followers:' .. run.n))[1]
  local submitted_us, deadline_us = unpack(redis.call('HMGET', job_key(run.leader), 'submitted_us', 'deadline_us'))
  redis.call('HSET', run_key(run.n), 'leader', run.leader, 'submitted_us', submitted_us)
  if deadline_us and run.state == 'Running' then
    redis.call('ZREM', deadlines_key(run.model), run.leader)
  end
end

-- Ends one job of a run; the run goes on for the others, if there are any.
local function leave_run(id, run, state, now, error)
  if not has_followers(run) then
    return end_run(run, state, now, error)
  end
  if run.leader == id then
    promote_follower(run)
  else
    redis.call('ZREM', key('followers:' .. run.n), id)
  end
  make_final(id, run, state, now, error)
end

local function is_late(id, now)
  local deadline_us = redis.call('HGET', job_key(id), 'deadline_us')
  return deadline_us and tonumber(deadline_us) <= now
end

-- Whether somebody still wants a waiting run; jobs whose deadline passed leave it.
local function is_in_time(run, now, deadline_error)
  while not run.is_over and is_late(run.leader, now) do
    leave_run(run.leader, run, 'Failed', now, deadline_error)
  end
  return not run.is_over
end

local function release_run(run, now)
  drop_claim(run)
  redis.call('HDEL', run_key(run.n), 'token', 'worker', 'started_us', 'rest_us')
  redis.call('HSET', run_key(run.n), 'state', 'Waiting', 'steps_done', 0, 'previews', 0)
  redis.call('DEL', key('previews:' .. run.n))
  local deadline_us = redis.call('HGET', job_key(run.leader), 'deadline_us')
  if deadline_us then
    redis.call('ZADD', deadlines_key(run.model), deadline_us, run.leader)
  end
  requeue_run(run, now)
  publish_change(run)
end
