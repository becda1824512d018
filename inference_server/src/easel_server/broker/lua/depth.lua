#!lua flags=no-writes
-- ARGV: seconds that a worker counts as there. Returns {waiting, running, age of the oldest waiting run in microseconds,
-- workers, then microseconds of predicted work: High, Normal, Low, running}.
local seen_seconds = tonumber(ARGV[1])

local now = now_us()
local oldest = redis.call('ZRANGE', key('waiting'), 0, 0)[1]
local age_us = 0
if oldest then
  age_us = math.max(0, now - redis.call('HGET', run_key(oldest), 'submitted_us'))
end
local workers = redis.call('ZCOUNT', key('workers'), integer(now - seen_seconds * 1000000), '+inf')
local work = redis.call('HMGET', key('work'), 'us:0', 'us:1', 'us:2', 'us:running')
return { redis.call('ZCARD', key('waiting')), redis.call('ZCARD', key('running')), integer(age_us), workers, unpack(work) }
