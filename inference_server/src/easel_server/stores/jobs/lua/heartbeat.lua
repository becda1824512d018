#!lua flags=allow-oom
-- needs: jobs/runs
-- ARGV: token, steps_done, error for a passed deadline, max_previews, previews. Returns a HeartbeatReply. A lease that ran out
-- unnoticed is simply extended: nobody took the job.
local token, steps_done, deadline_error, max_previews = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local FIRST_PREVIEW = 5

local now = now_us()
local run = find_claimed(token, now)
if not run then
  return 'Lost'
end
local n = run.n
redis.call('ZADD', key('workers'), integer(now), run.worker)
redis.call('ZADD', key('running'), integer(now + run.lease_us), n)

run.steps_done = steps_done
local rest_us = rest_us_of(run)
count_work('running', rest_us - run.rest_us)
note_running_excess(run, rest_us, now - run.started_us)
redis.call('HSET', run_key(n), 'steps_done', steps_done, 'rest_us', rest_us)
run.rest_us = rest_us

-- A call may be repeated: images that are the last ones already are not added again.
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
  run.previews = integer(redis.call('LLEN', key('previews:' .. n)))
  redis.call('HSET', run_key(n), 'previews', run.previews)
end
publish_change(run)

if run.cancel_requested then
  return 'Cancel'
end
while is_too_late(run.leader, now) do
  if not has_followers(run) then
    close_flight(run)
    return 'DeadlinePassed'
  end
  leave_run(run.leader, run, 'Failed', now, deadline_error)
  if run.is_over then
    return 'Lost'
  end
end
return 'Continue'
