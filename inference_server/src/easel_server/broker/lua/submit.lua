#!lua
-- needs: queue runs
-- ARGV: id, fingerprint, content, owner, submitted_us and deadline_us by the submitter's clock (deadline '' for none),
-- result_ttl_ms, webhook ('' for none), then of the run: priority, cost_us, weight, batch key, images, drawn steps, flight
-- key ('' for none), then the bounds max_queue_depth and max_followers, then all steps if answered ('' if not), the number
-- of inputs, digests and inputs, images of an answered job.
-- Returns {'known' | 'created' | 'shared', job}, {'conflict'} or {'full', depth}.
local id, fingerprint, content, owner = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local submitted_us, deadline_us, result_ttl_ms, webhook = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local priority, cost_us, weight, batch, images, steps = ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13], ARGV[14]
local flight, max_queue_depth, max_followers = ARGV[15], tonumber(ARGV[16]), tonumber(ARGV[17])
local answered_steps, inputs = ARGV[18], tonumber(ARGV[19])
local FIRST_INPUT = 20
local answered = answered_steps ~= ''

local known = redis.call('HGET', job_key(id), 'fingerprint')
if known == fingerprint then
  return { 'known', view(id) }
elseif known then
  return { 'conflict' }
end
local run = flight ~= '' and not answered and redis.call('GET', key('flight:' .. flight))
if run and redis.call('ZCARD', key('followers:' .. run)) >= max_followers then
  run = false
end
local depth = redis.call('ZCARD', key('waiting'))
if not run and not answered and depth >= max_queue_depth then
  return { 'full', depth }
end

local now = now_us()
local n = integer(redis.call('INCR', key('sequence')))
redis.call('HSET', job_key(id), 'content', content, 'fingerprint', fingerprint, 'submitted_us', integer(now),
  'result_ttl_ms', result_ttl_ms, 'run', run or n)
if webhook ~= '' then
  redis.call('HSET', job_key(id), 'webhook', webhook)
end
if deadline_us ~= '' then
  local deadline = integer(now + deadline_us - submitted_us)
  redis.call('HSET', job_key(id), 'deadline_us', deadline)
  if not answered then
    redis.call('ZADD', key('deadlines'), deadline, id)
  end
end
if run then
  redis.call('ZADD', key('followers:' .. run), n, id)
  enqueue_delivery(id, 'start', now)
  return { 'shared', view(id) }
end

redis.call('HSET', run_key(n), 'state', 'Waiting', 'leader', id, 'submitted_us', integer(now), 'owner', owner,
  'priority', priority, 'cost_us', cost_us, 'weight', weight, 'batch', batch, 'images', images, 'steps', steps,
  'attempts', 0, 'steps_done', 0, 'previews', 0)
enqueue_delivery(id, 'start', now)
if answered then
  redis.call('RPUSH', key('images:' .. n), unpack(ARGV, FIRST_INPUT))
  redis.call('HSET', run_key(n), 'started_us', integer(now), 'steps_done', answered_steps)
  local ttl_ms = make_final(id, n, 'Succeeded', now)
  redis.call('PEXPIRE', key('images:' .. n), integer(ttl_ms))
  redis.call('DEL', run_key(n))
else
  if flight ~= '' and redis.call('SET', key('flight:' .. flight), n, 'NX') then
    redis.call('HSET', run_key(n), 'flight', flight)
  end
  if inputs > 0 then
    redis.call('HSET', key('inputs:' .. n), unpack(ARGV, FIRST_INPUT, FIRST_INPUT + 2 * inputs - 1))
  end
  add_turn(get_turn(n))
  queue_run(n)
end
return { 'created', view(id) }
