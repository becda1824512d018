#!lua flags=no-writes
-- needs: jobs/queue
-- ARGV: seconds that a silent worker counts. Returns {waiting, running, age of the oldest waiting run in microseconds,
-- workers, attempts that an engine's error ended, then microseconds of predicted work: High, Normal, Low, running}.
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
local reply = { waiting, running, integer(age_us), workers, failures }
for _, work_us in ipairs(redis.call('HMGET', key('work'), 'us:0', 'us:1', 'us:2', 'us:running')) do
  reply[#reply + 1] = integer(math.max(0, number(work_us, 0)))
end
return reply
