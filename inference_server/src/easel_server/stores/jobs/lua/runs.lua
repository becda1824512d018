-- needs: jobs/queue outbox/enqueue images/books usage/ledger
-- Transitions of runs and of their jobs, see job.py. Runs come as load_run gives them. What concerns all jobs of a run is
-- bounded by the number of followers that a flight may have.

local PREVIEWS_KEPT_MS = 60000
local DEFAULT_TTL_MS = 3600000 -- of a job that doesn't say any more how long it is kept

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

-- What is left of a job is of no use to anybody; whoever waits for it looks, and hears that it is gone.
local function drop_job(id)
  redis.call('DEL', job_key(id))
  redis.call('ZREM', deadlines_key(nil), id)
  redis.call('ZREM', deadlines_key(true), id)
  redis.call('PUBLISH', key('changes'), '=' .. id)
  note_dropped('job', id)
end

-- Adds a job to what its customer's jobs took. Those of an earlier version say nothing of their owner.
local function note_usage(owner, run, state, now, gpu_us)
  local has_succeeded = state == 'Succeeded'
  if owner and (has_succeeded or gpu_us > 0) then
    count_usage(owner, now, has_succeeded and 1 or 0, has_succeeded and run.is_answered and 1 or 0,
      has_succeeded and number(run.images, 0) or 0, gpu_us)
  end
end

-- Ends one job, which is no longer of the run or ends with it, and took this much of a GPU (nothing if it isn't said).
-- Returns how long it is kept, in milliseconds.
local function make_final(id, run, state, now, error, gpu_us)
  local ttl_text, webhook, deadline_us, model, submitted_us, owner =
    unpack(redis.call('HMGET', job_key(id), 'result_ttl_ms', 'webhook', 'deadline_us', 'model', 'submitted_us', 'owner'))
  local ttl_ms = number(ttl_text, DEFAULT_TTL_MS)
  if not submitted_us then
    drop_job(id)
    return ttl_ms
  end
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
  redis.call('PEXPIRE', job_key(id), integer(ttl_ms))
  note_usage(owner or run.owner, run, state, now, gpu_us or 0)
  redis.call('PUBLISH', key('changes'), '=' .. id)
  return ttl_ms
end

-- Whether a job is neither final nor of a run that goes on: nothing will ever come of it.
local function is_orphan(id)
  local n, state = unpack(redis.call('HMGET', job_key(id), 'run', 'state'))
  return not state and not (n and load_run(n))
end

local function end_orphan(id, now)
  note_dropped('run', 'of ' .. id)
  make_final(id, ORPHAN, 'Failed', now, ORPHAN_ERROR)
end

-- Lets a run be timely as long as a job that joined it is; nothing if either of them has no target.
local function extend_run(run, start_by)
  if start_by and start_by > number(run.start_by_us, start_by) then
    run.start_by_us = integer(start_by)
    redis.call('HSET', run_key(run.n), 'start_by_us', run.start_by_us)
    if run.state == 'Waiting' then
      look_again(run)
    end
  end
end

-- Lets a run that waits go with the priority of a job that joined it, if that is higher.
local function lift_run(run, priority, now)
  if run.state == 'Waiting' and priority < run.priority then
    remove_run(run)
    redis.call('HDEL', run_key(run.n), 'given_back')
    redis.call('HSET', run_key(run.n), 'priority', priority)
    run.priority = priority
    queue_run(run, now)
    look_again(run)
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
  forget_running_excess(run.n)
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
  local followers = run.joined and redis.call('ZRANGE', key('followers:' .. n), 0, -1) or {}
  local jobs, spent_us = 1 + #followers, number(run.spent_us, 0)
  local share_us = math.floor(spent_us / jobs)
  local ttl_ms = make_final(run.leader, run, state, now, error, spent_us - share_us * #followers)
  for _, id in ipairs(followers) do
    ttl_ms = math.max(ttl_ms, make_final(id, run, state, now, error, share_us))
  end
  redis.call('DEL', run_key(n), key('followers:' .. n), key('inputs:' .. n), key('checkpoint:' .. n))
  redis.call('HDEL', key('leaders'), n)
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
    redis.call('HDEL', key('image:sums'), 'reserved', 'inputs') -- an earlier version ended runs without freeing it
    redis.call('DEL', key('image:owners'))
  end
end

local function has_followers(run)
  return run.joined and redis.call('ZCARD', key('followers:' .. run.n)) > 0
end

-- Whether another job of the run could be made its leader; those of which nothing is left are dropped.
local function promote_follower(run)
  while has_followers(run) do
    local id = redis.call('ZPOPMIN', key('followers:' .. run.n))[1]
    local content, submitted_us, deadline_us =
      unpack(redis.call('HMGET', job_key(id), 'fingerprint', 'submitted_us', 'deadline_us'))
    if content and submitted_us then
      run.leader = id
      redis.call('HSET', run_key(run.n), 'leader', id, 'submitted_us', submitted_us)
      redis.call('HSET', key('leaders'), run.n, id)
      if deadline_us and run.state == 'Running' then
        redis.call('ZREM', deadlines_key(run.model), id)
      end
      return true
    end
    drop_job(id)
  end
  return false
end

-- Ends one job of a run; the run goes on for the others, if there are any.
local function leave_run(id, run, state, now, error)
  if run.leader ~= id then
    redis.call('ZREM', key('followers:' .. run.n), id)
  elseif not promote_follower(run) then
    return end_run(run, state, now, error)
  end
  make_final(id, run, state, now, error)
end

-- Whether nobody waits for the job: its deadline has passed, or nothing is left of it.
local function is_too_late(id, now)
  local submitted_us, deadline_us = unpack(redis.call('HMGET', job_key(id), 'submitted_us', 'deadline_us'))
  return not submitted_us or (deadline_us and number(deadline_us, now + 1) <= now)
end

-- Whether somebody still wants a waiting run; jobs whose deadline passed leave it.
local function is_in_time(run, now, deadline_error)
  while not run.is_over and is_too_late(run.leader, now) do
    leave_run(run.leader, run, 'Failed', now, deadline_error)
  end
  return not run.is_over
end

-- Ends what is left of a run that is damaged or gone: its jobs fail, as far as they are known. Those that aren't are
-- orphans, and fail when somebody looks at them.
local function drop_run(n, left, now)
  note_dropped('run', n)
  redis.call('ZREM', key('running'), n)
  forget_waiting_excess(n)
  forget_running_excess(n)
  if redis.call('ZREM', key('waiting'), n) == 1 and IS_PRIORITY[left.priority] and number(left.cost_us) then
    count_work(left.priority, 0 - left.cost_us)
  end
  if left.token then
    redis.call('HDEL', key('claims'), left.token)
  end
  if left.owner and IS_PRIORITY[left.priority] then
    drop_place(place_of(n, left.owner), schedule_of(left.priority, left.model), left.model)
  end
  close_flight(left)
  free_room({ image_bytes = number(left.image_bytes, 0) })
  local ids = redis.call('ZRANGE', key('followers:' .. n), 0, -1)
  ids[#ids + 1] = left.leader or redis.call('HGET', key('leaders'), n) or nil
  redis.call('DEL', run_key(n), key('followers:' .. n), key('inputs:' .. n), key('previews:' .. n),
    key('checkpoint:' .. n))
  redis.call('HDEL', key('leaders'), n)
  for _, id in ipairs(ids) do
    if redis.call('HGET', job_key(id), 'run') == n and is_orphan(id) then
      make_final(id, ORPHAN, 'Failed', now, ORPHAN_ERROR)
    end
  end
end

-- The run, or nil if it is gone; one that is damaged or gone is dropped.
local function find_run(n, now)
  local run, left = load_run(n)
  if not run then
    drop_run(n, left, now)
  end
  return run
end

-- With a checkpoint its progress is kept: the next worker goes on from there.
local function release_run(run, now)
  drop_claim(run)
  redis.call('HDEL', run_key(run.n), 'token', 'worker', 'started_us', 'rest_us')
  redis.call('HSET', run_key(run.n), 'state', 'Waiting', 'steps_done', run.has_checkpoint and run.steps_done or 0,
    'previews', 0)
  redis.call('DEL', key('previews:' .. run.n))
  local deadline_us = redis.call('HGET', job_key(run.leader), 'deadline_us')
  if number(deadline_us) then
    redis.call('ZADD', deadlines_key(run.model), deadline_us, run.leader)
  end
  requeue_run(run, now)
  publish_change(run)
end

-- Adds what an attempt took of a GPU. One whose work is lost isn't added: the next one does it again.
local function add_spent(run, spent_us)
  run.spent_us = integer(number(run.spent_us, 0) + math.max(0, number(spent_us, 0)))
end

local function keep_checkpoint(run, checkpoint, ttl_ms)
  redis.call('SET', key('checkpoint:' .. run.n), checkpoint, 'PX', ttl_ms)
  redis.call('HSET', run_key(run.n), 'has_checkpoint', 1)
  run.has_checkpoint = '1'
end

local function drop_checkpoint(run)
  if run.has_checkpoint then
    redis.call('DEL', key('checkpoint:' .. run.n))
    redis.call('HDEL', run_key(run.n), 'has_checkpoint')
    run.has_checkpoint = nil
  end
end

-- Predicted work of the steps that aren't done.
local function rest_us_of(run)
  return integer(math.floor(run.cost_us * math.max(0, 1 - run.steps_done / run.steps)))
end

-- The run that is claimed by the token, or nil if the claim is no longer held.
local function find_claimed(token, now)
  local n = redis.call('HGET', key('claims'), token)
  local run = n and find_run(n, now)
  if run and run.state == 'Running' and run.token == token then
    return run
  elseif n then
    redis.call('HDEL', key('claims'), token)
  end
end
