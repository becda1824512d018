-- Transitions of runs and of their jobs, see job.py. What concerns all jobs of a run is bounded by the number of followers
-- that a flight may have.

local PREVIEWS_KEPT_MS = 60000

local function publish_change(n)
  if redis.call('HEXISTS', run_key(n), 'watched') == 1 then
    redis.call('PUBLISH', key('changes'), '#' .. n)
  end
end

-- Ends one job, which is no longer of the run or ends with it.
local function make_final(id, n, state, now, error)
  local fields = { 'state', state, 'finished_us', integer(now) }
  local values = redis.call('HMGET', run_key(n), unpack(PROGRESS))
  for index = 2, #PROGRESS do
    if values[index] then
      fields[#fields + 1] = PROGRESS[index]
      fields[#fields + 1] = values[index]
    end
  end
  if error then
    fields[#fields + 1] = 'error'
    fields[#fields + 1] = error
  end
  redis.call('HSET', job_key(id), unpack(fields))
  redis.call('ZREM', key('deadlines'), id)
  enqueue_delivery(id, 'completed', now)
  local ttl_ms = redis.call('HGET', job_key(id), 'result_ttl_ms')
  redis.call('PEXPIRE', job_key(id), ttl_ms)
  redis.call('PUBLISH', key('changes'), '=' .. id)
  return tonumber(ttl_ms)
end

local function queue_run(n)
  redis.call('ZADD', key('waiting'), n, n)
  ring('bell', 'waiting')
end

local function close_flight(n)
  local flight = redis.call('HGET', run_key(n), 'flight')
  if flight and redis.call('GET', key('flight:' .. flight)) == n then
    redis.call('DEL', key('flight:' .. flight))
  end
end

local function drop_claim(n)
  local token, rest_us = unpack(redis.call('HMGET', run_key(n), 'token', 'rest_us'))
  redis.call('ZREM', key('running'), n)
  redis.call('HDEL', key('claims'), token)
  redis.call('HINCRBY', key('work'), 'us:running', integer(0 - rest_us))
end

-- Ends a run and all its jobs.
local function end_run(n, state, now, error)
  local leader, current = unpack(redis.call('HMGET', run_key(n), 'leader', 'state'))
  if current == 'Waiting' then
    redis.call('ZREM', key('waiting'), n)
    remove_turn(get_turn(n))
  else
    drop_claim(n)
  end
  close_flight(n)
  local ttl_ms = make_final(leader, n, state, now, error)
  for _, id in ipairs(redis.call('ZRANGE', key('followers:' .. n), 0, -1)) do
    ttl_ms = math.max(ttl_ms, make_final(id, n, state, now, error))
  end
  redis.call('DEL', run_key(n), key('followers:' .. n), key('inputs:' .. n))
  redis.call('PEXPIRE', key('images:' .. n), integer(ttl_ms))
  redis.call('PEXPIRE', key('previews:' .. n), PREVIEWS_KEPT_MS)
  if redis.call('ZCARD', key('waiting')) == 0 and redis.call('ZCARD', key('running')) == 0 then
    reset_turns()
  end
end

local function promote(n)
  local id = redis.call('ZPOPMIN', key('followers:' .. n))[1]
  redis.call('HSET', run_key(n), 'leader', id, 'submitted_us', redis.call('HGET', job_key(id), 'submitted_us'))
  if redis.call('HGET', run_key(n), 'state') == 'Running' then
    redis.call('ZREM', key('deadlines'), id)
  end
end

-- Ends one job of a run; the run goes on for the others, if there are any.
local function leave_run(id, n, state, now, error)
  if redis.call('ZCARD', key('followers:' .. n)) == 0 then
    return end_run(n, state, now, error)
  end
  if redis.call('HGET', run_key(n), 'leader') == id then
    promote(n)
  else
    redis.call('ZREM', key('followers:' .. n), id)
  end
  make_final(id, n, state, now, error)
end

local function is_late(id, now)
  local deadline_us = redis.call('HGET', job_key(id), 'deadline_us')
  return deadline_us and tonumber(deadline_us) <= now
end

-- Whether somebody still wants a waiting run; jobs whose deadline passed leave it.
local function is_in_time(n, now, deadline_error)
  local leader = redis.call('HGET', run_key(n), 'leader')
  while leader do
    if not is_late(leader, now) then
      return true
    end
    leave_run(leader, n, 'Failed', now, deadline_error)
    leader = redis.call('HGET', run_key(n), 'leader')
  end
  return false
end

local function hand_back(n)
  drop_claim(n)
  local leader = redis.call('HGET', run_key(n), 'leader')
  redis.call('HDEL', run_key(n), 'token', 'worker', 'started_us', 'rest_us')
  redis.call('HSET', run_key(n), 'state', 'Waiting', 'steps_done', 0, 'previews', 0)
  redis.call('DEL', key('previews:' .. n))
  local deadline_us = redis.call('HGET', job_key(leader), 'deadline_us')
  if deadline_us then
    redis.call('ZADD', key('deadlines'), deadline_us, leader)
  end
  put_back_turn(get_turn(n))
  queue_run(n)
  publish_change(n)
end
