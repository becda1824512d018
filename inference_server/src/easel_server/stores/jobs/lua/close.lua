#!lua flags=allow-oom
-- needs: jobs/runs
-- The service is being deleted: ends what waits, and a while after the first of these calls what runs.
-- ARGV: most runs to end, seconds that running ones have left. Returns how many were ended.
local limit, grace_seconds = tonumber(ARGV[1]), tonumber(ARGV[2])

local reason = redis.call('HGET', key('closing'), 'reason')
if not reason then
  return 0
end
local now = now_us()
redis.call('HSETNX', key('closing'), 'since_us', integer(now))

-- The runs are read anew by each look, so one without a record must not be found again.
local function end_runs(queue, count)
  local numbers = redis.call('ZRANGE', key(queue), 0, count - 1)
  for _, n in ipairs(numbers) do
    local run = find_run(n, now)
    if run then
      end_run(run, run.cancel_requested and 'Canceled' or 'Failed', now, not run.cancel_requested and reason or nil)
    end
    redis.call('ZREM', key(queue), n)
  end
  return #numbers
end

local ended = end_runs('waiting', limit)
if ended < limit and now - number(redis.call('HGET', key('closing'), 'since_us'), 0) >= grace_seconds * 1000000 then
  ended = ended + end_runs('running', limit - ended)
end
return ended
