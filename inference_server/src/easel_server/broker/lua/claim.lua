#!lua flags=allow-oom
-- ARGV: token, worker, lease_us, max_attempts, error for a passed deadline. Returns the job, or nil if none waits.
-- Handing out work is allowed when memory is short: finished jobs are what frees it.
local token, worker, lease_us, max_attempts, deadline_error = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]

local repeated = redis.call('HGET', key('claims'), token)
if repeated then
  return redis.call('HGETALL', job_key(repeated))
end

local now = now_us()
while true do
  local id = redis.call('ZRANGE', key('waiting'), 0, 0)[1]
  if not id then
    redis.call('DEL', key('bell'))
    return nil
  end
  local deadline_us = redis.call('HGET', job_key(id), 'deadline_us')
  if deadline_us and tonumber(deadline_us) <= now then
    make_final(id, 'Failed', now, deadline_error)
  else
    redis.call('ZREM', key('waiting'), id)
    redis.call('ZREM', key('deadlines'), id)
    redis.call('ZADD', key('running'), integer(now + lease_us), id)
    redis.call('HSET', key('claims'), token, id)
    redis.call('HINCRBY', job_key(id), 'attempts', 1)
    redis.call('HSET', job_key(id), 'state', 'Running', 'token', token, 'worker', worker, 'steps_done', 0,
      'started_us', integer(now), 'lease_us', ARGV[3], 'max_attempts', max_attempts)
    return redis.call('HGETALL', job_key(id))
  end
end
