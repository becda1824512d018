-- Prepended to every script of this folder. KEYS[1] is the service's prefix; every key touched begins with it, so all
-- share one hash slot and one ACL pattern. Times are microseconds of this server's clock; no other clock counts.
-- Scripts that name them in their second line ("-- needs: queue runs") get queue.lua and runs.lua too.
--
--   <prefix>job:<id>         hash    a job (fields: see redis_fields.py); it has a state once it is final
--   <prefix>run:<n>          hash    the work that a job waits for, or several equal ones; n counts submits
--   <prefix>followers:<n>    zset    the run's jobs besides its leader, in the order in which they came
--   <prefix>inputs:<n>       hash    digest -> input picture, until the run ends
--   <prefix>previews:<n>     list    unfinished pictures
--   <prefix>images:<n>       list    its images, once it succeeded
--   <prefix>flight:<key>     string  the run that equal jobs may join
--   <prefix>waiting          zset    n -> n, behind all of higher priority (see queue.lua)
--   <prefix>running          zset    n -> end of its lease
--   <prefix>deadlines        zset    id -> deadline, of jobs that have one and aren't the leader of a running run
--   <prefix>claims           hash    token -> n, while the claim is held
--   <prefix>turns:<p>        zset    <oldest n, padded>:<owner> -> start tag; -inf for runs that were given back;
--                                    p is 0 for High to 2 for Low
--   <prefix>queue:<p>:<owner> zset   n -> n, what waits of one owner and wasn't given back
--   <prefix>tags:<p>         zset    owner -> where its next start tag is, if that is later than the virtual time
--   <prefix>virtual          hash    p -> virtual time
--   <prefix>work             hash    sums over what waits and runs (see queue.lua)
--   <prefix>workers          zset    worker -> when it was last heard of
--   <prefix>costs            hash    decayed sums over finished jobs, see cost.py
--   <prefix>sequence         string  counts submits
--   <prefix>bell             list    wakes sleeping claims
--   <prefix>changes          channel "=<id>" when a job has become final, "#<n>" when a watched run has changed
--   <prefix>outbox           zset    host -> when its next delivery may be attempted
--   <prefix>outbox:host:<h>  zset    delivery to that host -> when it is due
--   <prefix>outbox:attempts:<h> zset delivery that is being attempted -> end of its lease
--   <prefix>outbox:bell      list    wakes sleeping deliverers
--   <prefix>delivery:<name>  hash    a webhook to be sent
--   <prefix>cache:entry:<k>  list    when an earlier job with the same parameters was drawn, and its images
--   <prefix>cache:used       zset    entry -> when it was last used
--   <prefix>cache:expiry     zset    entry -> when it expires
--   <prefix>cache:sizes      hash    entry -> its bytes
--   <prefix>cache:bytes      string  their sum
--   <prefix>rate:<bucket>    hash    level: what was taken and hasn't refilled; at_ms: when that was so
--   <prefix>fact:<name>      string  what workers tell gateways

local prefix = KEYS[1]

local function key(name)
  return prefix .. name
end

local function job_key(id)
  return prefix .. 'job:' .. id
end

local function run_key(n)
  return prefix .. 'run:' .. n
end

-- Lua prints large numbers as 1.8e+15.
local function integer(number)
  return string.format('%.0f', number)
end

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function ring(bell, queue)
  if redis.call('LLEN', key(bell)) < redis.call('ZCARD', key(queue)) then
    redis.call('RPUSH', key(bell), '1')
  end
end

-- A flat list of names and values as a table.
local function as_table(fields)
  local values = {}
  for index = 1, #fields, 2 do
    values[fields[index]] = fields[index + 1]
  end
  return values
end

-- The run as a table of its fields and n; nil if it is over.
local function load_run(n)
  local run = as_table(redis.call('HGETALL', run_key(n)))
  if not run.state then
    return nil
  end
  run.n = n
  return run
end

-- Fields that a job has from its run until it is final, besides the state.
local PROGRESS = { 'attempts', 'steps_done', 'started_us', 'worker', 'cancel_requested', 'previews' }

local function append_progress(fields, run)
  for _, name in ipairs(PROGRESS) do
    if run[name] then
      fields[#fields + 1] = name
      fields[#fields + 1] = run[name]
    end
  end
end

-- The job as its client sees it, as a flat list of names and values; empty if unknown.
local function view(id, run)
  local fields = redis.call('HGETALL', job_key(id))
  local job = as_table(fields)
  if job.run and not job.state then
    run = run or load_run(job.run)
    fields[#fields + 1] = 'state'
    fields[#fields + 1] = run.state
    append_progress(fields, run)
  end
  return fields
end

-- The host and port that a webhook goes to.
local function host_of(url)
  local authority = string.match(url, '^[^:]*://([^/?#]*)') or ''
  return string.lower(string.match(authority, '[^@]*$'))
end

local function enqueue_delivery(id, webhook, event, now)
  local target = cjson.decode(webhook)
  for _, wanted in ipairs(target.events) do
    if wanted == event then
      local name = id .. '.' .. event
      local snapshot = cjson.encode(view(id))
      redis.call('HSET', key('delivery:' .. name), 'event', event, 'url', target.url, 'attempt', 0, 'job', snapshot)
      local host = host_of(target.url)
      redis.call('ZADD', key('outbox:host:' .. host), integer(now), name)
      redis.call('ZADD', key('outbox'), 'LT', integer(now), host)
      ring('outbox:bell', 'outbox')
    end
  end
end
