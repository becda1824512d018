#!lua flags=no-writes
-- Returns {waiting, running, age of the oldest waiting job in microseconds}.
local oldest = redis.call('ZRANGE', key('waiting'), 0, 0)[1]
local age_us = 0
if oldest then
  age_us = math.max(0, now_us() - redis.call('HGET', job_key(oldest), 'submitted_us'))
end
return { redis.call('ZCARD', key('waiting')), redis.call('ZCARD', key('running')), integer(age_us) }
