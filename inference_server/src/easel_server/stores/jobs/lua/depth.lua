#!lua flags=no-writes
-- needs: jobs/queue
-- ARGV: seconds that a silent worker counts. Returns {waiting, running, age of the oldest waiting run in microseconds,
-- workers, attempts that an engine's error ended, runs that take longer than their target, then microseconds: predicted
-- work that waits, what is left of what runs, and how much of the first and of the second is in excess (bounded.lua)}.
local seen_seconds = tonumber(ARGV[1])

local now = now_us()
local age_us = 0
for p = 0, LAST_PRIORITY do
  local first, last = integer(p * PRIORITY_SPAN), '(' .. integer((p + 1) * PRIORITY_SPAN)
  local oldest = redis.call('ZRANGE', key('waiting'), first, last, 'BYSCORE', 'LIMIT', 0, 1)[1]
  if oldest then
    age_us = math.max(age_us, now - number(redis.call('HGET', run_key(oldest), 'submitted_us'), now))
  end
end
local workers = redis.call('ZCOUNT', key('workers'), integer(now - seen_seconds * 1000000), '+inf')
local failures = number(redis.call('GET', key('engine_failures')), 0)
local waiting, running = redis.call('ZCARD', key('waiting')), redis.call('ZCARD', key('running'))
local waiting_us = 0
for p = 0, LAST_PRIORITY do
  waiting_us = waiting_us + math.max(0, number(redis.call('HGET', key('work'), 'us:' .. p), 0))
end
local reply = { waiting, running, integer(age_us), workers, failures, redis.call('HLEN', key('overrunning')) }
local running_us = number(redis.call('HGET', key('work'), 'us:running'), 0)
local excess = redis.call('HMGET', key('excess'), 'waiting', 'running')
for _, work_us in ipairs({ waiting_us, running_us, number(excess[1], 0), number(excess[2], 0) }) do
  reply[#reply + 1] = integer(math.max(0, work_us))
end
return reply
