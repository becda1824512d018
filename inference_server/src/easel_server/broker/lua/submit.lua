#!lua
-- ARGV: id, fingerprint, submitted_us and deadline_us by the submitter's clock (deadline '' for none), max_queue_depth,
-- answered ('1': Succeeded at once), number of fields, the fields' names and values, the images of an answered job.
-- Returns {'known' | 'created', job}, {'conflict'} or {'full', depth}.
local id, fingerprint = ARGV[1], ARGV[2]
local submitted_us, deadline_us = ARGV[3], ARGV[4]
local max_queue_depth, answered = tonumber(ARGV[5]), ARGV[6] == '1'
local fields_end = 7 + tonumber(ARGV[7])

local known = redis.call('HGET', job_key(id), 'fingerprint')
if known == fingerprint then
  return { 'known', redis.call('HGETALL', job_key(id)) }
elseif known then
  return { 'conflict' }
end
local depth = redis.call('ZCARD', key('waiting'))
if not answered and depth >= max_queue_depth then
  return { 'full', depth }
end

local now = now_us()
redis.call('HSET', job_key(id), unpack(ARGV, 8, fields_end))
redis.call('HSET', job_key(id), 'id', id, 'fingerprint', fingerprint, 'submitted_us', integer(now),
  'sequence', redis.call('INCR', key('sequence')), 'attempts', 0, 'state', 'Waiting')
if deadline_us ~= '' then
  redis.call('HSET', job_key(id), 'deadline_us', integer(now + deadline_us - submitted_us))
end
enqueue_delivery(id, 'start', now)
if answered then
  for index = fields_end + 1, #ARGV do
    redis.call('RPUSH', key('images:' .. id), ARGV[index])
  end
  redis.call('HSET', job_key(id), 'started_us', integer(now))
  make_final(id, 'Succeeded', now)
else
  queue_waiting(id)
end
return { 'created', redis.call('HGETALL', job_key(id)) }
