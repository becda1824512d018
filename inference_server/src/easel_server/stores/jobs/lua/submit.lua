#!lua
-- needs: jobs/runs jobs/estimate images/room
-- ARGV: id, fingerprint, content, owner, submitted_us and deadline_us by the submitter's clock (deadline '' for none),
-- result_ttl_ms, webhook ('' for none), then of the run: priority, cost_us, weight, batch key, images, steps, flight
-- key ('' for none), then the bounds max_queue_depth and max_followers, then the room that is needed for images, the
-- bounds max_image_bytes and of jobs with objects in a bucket ('' for none), the books' entry of inputs that are in a bucket
-- ('' if they aren't), all steps if answered ('' if not), the number of inputs, digests and inputs or references to them,
-- and an answered job's images (see set_images).
-- Returns {'queued', submitted_us, jobs ahead, microseconds of predicted work ahead},
-- {'known' | 'shared' | 'answered', job}, {'conflict'}, {'full', depth} or {'no_room', ...} (see images/room).
local id, fingerprint, content, owner = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local submitted_us, deadline_us, result_ttl_ms, webhook = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local flight, max_queue_depth, max_followers = ARGV[15], tonumber(ARGV[16]), tonumber(ARGV[17])
local needed_bytes, max_image_bytes, max_image_jobs = tonumber(ARGV[18]), tonumber(ARGV[19]), ARGV[20]
local input_entry, answered_steps, inputs = ARGV[21], ARGV[22], tonumber(ARGV[23])
local FIRST_INPUT = 24
local images = FIRST_INPUT + 2 * inputs
local is_answered = answered_steps ~= ''

local known = redis.call('HGET', job_key(id), 'fingerprint')
if known == fingerprint then
  return { 'known', view(id) }
elseif known then
  return { 'conflict' }
end
local joined = flight ~= '' and not is_answered and redis.call('GET', key('flight:' .. flight))
if joined and redis.call('ZCARD', key('followers:' .. joined)) >= max_followers then
  joined = false
end
if not joined and not is_answered then
  local depth = redis.call('ZCARD', key('waiting'))
  if depth >= max_queue_depth then
    return { 'full', depth }
  end
end
local now = now_us()
local refusal = not joined and reserve_room(needed_bytes, is_answered, max_image_bytes, max_image_jobs, now)
if refusal then
  return refusal
end

local n = integer(redis.call('INCR', key('sequence')))
local fields = { 'content', content, 'fingerprint', fingerprint, 'submitted_us', integer(now),
  'result_ttl_ms', result_ttl_ms, 'run', joined or n }

local function add_field(name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end

if webhook ~= '' then
  add_field('webhook', webhook)
end
if deadline_us ~= '' then
  local deadline = integer(now + deadline_us - submitted_us)
  add_field('deadline_us', deadline)
  if not is_answered then
    redis.call('ZADD', key('deadlines'), deadline, id)
  end
end
redis.call('HSET', job_key(id), unpack(fields))

local function enqueue_start(reply)
  if webhook ~= '' then
    enqueue_delivery(id, webhook, 'start', now)
  end
  return reply
end

if joined then
  redis.call('ZADD', key('followers:' .. joined), n, id)
  redis.call('HSET', run_key(joined), 'joined', 1)
  lift_run(load_run(joined), ARGV[9])
  return enqueue_start({ 'shared', view(id) })
end

redis.call('HSET', run_key(n), 'state', 'Waiting', 'leader', id, 'submitted_us', integer(now), 'owner', owner,
  'priority', ARGV[9], 'cost_us', ARGV[10], 'weight', ARGV[11], 'batch', ARGV[12], 'images', ARGV[13], 'steps', ARGV[14],
  'attempts', 0, 'steps_done', 0, 'previews', 0, 'image_bytes', is_answered and 0 or ARGV[18])
enqueue_start()
if is_answered then
  local run = { n = n, started_us = integer(now), steps_done = answered_steps, attempts = '0', previews = '0' }
  set_images(run, images)
  keep_images(run, 1, make_final(id, run, 'Succeeded', now), now)
  redis.call('DEL', run_key(n))
  return { 'answered', view(id) }
end
if flight ~= '' and redis.call('SET', key('flight:' .. flight), n, 'NX') then
  redis.call('HSET', run_key(n), 'flight', flight)
end
if inputs > 0 then
  redis.call('HSET', key('inputs:' .. n), unpack(ARGV, FIRST_INPUT, images - 1))
  redis.call('HSET', run_key(n), 'inputs', inputs)
  if input_entry ~= '' then
    redis.call('HSET', run_key(n), 'input_entry', input_entry)
    redis.call('ZADD', key('image:object_expiry'), 'XX', '+inf', input_entry) -- however long the run takes
  end
end
local priority = tonumber(ARGV[9])
queue_run({ n = n, priority = ARGV[9], owner = owner, cost_us = ARGV[10], weight = ARGV[11] })
local jobs_before = redis.call('ZCARD', queue_key(ARGV[9], owner)) - 1
return { 'queued', integer(now), unpack(estimate_position(priority, owner, tonumber(ARGV[11]), jobs_before, n)) }
