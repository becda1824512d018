#!lua flags=allow-oom
-- needs: queue runs
-- ARGV: token, steps_done, error for a passed deadline, max_previews, previews. Returns a Verdict. A lease that ran out
-- unnoticed is simply extended: nobody took the job.
local token, steps_done, deadline_error, max_previews = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local FIRST_PREVIEW = 5

local n = redis.call('HGET', key('claims'), token)
if not n then
  return 'Lost'
end
local now = now_us()
local worker, lease_us, cost_us, rest_us, steps, cancel =
  unpack(redis.call('HMGET', run_key(n), 'worker', 'lease_us', 'cost_us', 'rest_us', 'steps', 'cancel_requested'))
redis.call('ZADD', key('workers'), integer(now), worker)
redis.call('ZADD', key('running'), integer(now + lease_us), n)

local left_us = math.floor(cost_us * math.max(0, 1 - steps_done / steps))
redis.call('HINCRBY', key('work'), 'us:running', integer(left_us - rest_us))
redis.call('HSET', run_key(n), 'steps_done', steps_done, 'rest_us', integer(left_us))

-- A call may be repeated: pictures that are the last ones already are not added again.
local function has_previews(count)
  local last = redis.call('LRANGE', key('previews:' .. n), -count, -1)
  for index = 1, count do
    if last[index] ~= ARGV[FIRST_PREVIEW + index - 1] then
      return false
    end
  end
  return true
end

local count = #ARGV - FIRST_PREVIEW + 1
if count > 0 and not has_previews(count) then
  redis.call('RPUSH', key('previews:' .. n), unpack(ARGV, FIRST_PREVIEW))
  redis.call('LTRIM', key('previews:' .. n), 0, max_previews - 1)
  redis.call('HSET', run_key(n), 'previews', redis.call('LLEN', key('previews:' .. n)))
end
publish_change(n)

if cancel then
  return 'Cancel'
end
local leader = redis.call('HGET', run_key(n), 'leader')
while is_late(leader, now) do
  if redis.call('ZCARD', key('followers:' .. n)) == 0 then
    close_flight(n)
    return 'DeadlinePassed'
  end
  leave_run(leader, n, 'Failed', now, deadline_error)
  leader = redis.call('HGET', run_key(n), 'leader')
end
return 'Continue'
