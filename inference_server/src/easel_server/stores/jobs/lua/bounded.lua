-- needs: jobs/fields
-- Bounded work: of each run at most what one worker can do of it within the target that its job was submitted with. What is
-- kept is the excess over that, which most runs don't have. Processes of the earlier version end runs without a word to
-- these books; repairs.lua finds what they leave.
--
--   <prefix>excess          hash  the sums of the next two: waiting, running
--   <prefix>excess:waiting  hash  n -> microseconds; of runs that have any
--   <prefix>excess:running  hash  n -> microseconds, as of its claim or last heartbeat
--   <prefix>overrunning     hash  n -> 1; of running runs that had run for longer than the target at their last heartbeat

local function keep_excess(state, n, excess_us)
  local before_us = number(redis.call('HGET', key('excess:' .. state), n), 0)
  if excess_us == before_us then
    return
  elseif excess_us > 0 then
    redis.call('HSET', key('excess:' .. state), n, integer(excess_us))
  else
    redis.call('HDEL', key('excess:' .. state), n)
  end
  if redis.call('HLEN', key('excess:' .. state)) > 0 then
    redis.call('HINCRBY', key('excess'), state, integer(excess_us - before_us))
  else
    redis.call('HDEL', key('excess'), state)
  end
end

local function note_waiting_excess(run)
  local target_us = number(run.target_us)
  if target_us and run.cost_us - target_us > 0 then
    keep_excess('waiting', run.n, run.cost_us - target_us)
  end
end

-- Of a run that is claimed, or reports: what is left of its work, and for how long it has run.
local function note_running_excess(run, rest_us, elapsed_us)
  local target_us = number(run.target_us)
  if target_us then
    keep_excess('running', run.n, math.max(0, rest_us - math.max(0, target_us - elapsed_us)))
    if elapsed_us > target_us then
      redis.call('HSET', key('overrunning'), run.n, 1)
    end
  end
end

local function forget_waiting_excess(n)
  keep_excess('waiting', n, 0)
end

local function forget_running_excess(n)
  keep_excess('running', n, 0)
  redis.call('HDEL', key('overrunning'), n)
end

local function reset_excess()
  redis.call('DEL', key('excess'), key('excess:waiting'), key('excess:running'), key('overrunning'))
end
