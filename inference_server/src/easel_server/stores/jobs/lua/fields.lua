-- A job and its run as they are stored. Some names are older than the words that the code uses now; they stay, since an
-- update must not lose what waits under them.
--
--   <prefix>job:<id>         hash    a job (fields: see redis_fields.py); it has a state once it is final
--   <prefix>jobs_of:<owner>  zset    id -> n, of the owner's newest jobs; those that have expired are in it until it is read
--   <prefix>run:<n>          hash    the work that a job waits for, or several equal ones; n counts submits
--   <prefix>followers:<n>    zset    the run's jobs besides its leader, in the order in which they came
--   <prefix>inputs:<n>       hash    digest -> input image or reference to it, until the run ends
--   <prefix>previews:<n>     list    unfinished images
--   <prefix>checkpoint:<n>   string  from which its next attempt goes on; a worker that ended left it
--   <prefix>images:<n>       list    its images, once it succeeded, unless they are in a bucket (see images/lua/books.lua)
--   <prefix>flight:<key>     string  the run that equal jobs may join
--   <prefix>leaders          hash    n -> the run's leader, so that it hears of a run that is damaged or gone
--   <prefix>waiting          zset    n -> n, behind all of higher priority (see queue.lua)
--   <prefix>models           zset    model that was waited for or served lately -> when somebody last said to serve it
--   <prefix>running          zset    n -> end of its lease
--   <prefix>deadlines        zset    id -> deadline, of jobs that have one and aren't the leader of a running run;
--                                    deadlines/models holds those of jobs that ask for a model
--   <prefix>claims           hash    token -> n, while the claim is held
--   <prefix>turns:<s>        zset    a schedule: <oldest n, padded>:<owner> -> start tag; -inf for runs that were released;
--                                    s is <p> or <p>/<model>, and p is 0 for High to 2 for Low
--   <prefix>queue:<s>:<owner> zset   n -> n, what waits of one owner and wasn't released
--   <prefix>tags:<s>         zset    owner -> where its next start tag is, if that is later than the virtual time
--   <prefix>virtual          hash    s -> virtual time; virtual/models holds those of schedules of models
--   <prefix>work             hash    sums over what waits and runs, and what is known to be late or yields (see queue.lua)
--   <prefix>workers          zset    worker -> when it was last heard of
--   <prefix>engine_failures  string  attempts that an engine's error ended
--   <prefix>costs            hash    decayed sums over finished jobs, see cost.py
--   <prefix>sequence         string  counts submits
--   <prefix>bell             list    wakes sleeping claims; bell/<model> those of workers that hold the model
--   <prefix>joining          list    wakes workers that have room beside what they generate; joining/<model> likewise
--   <prefix>closing          hash    the service is being deleted: reason, and since_us once its processes have noticed
--   <prefix>changes          channel "=<id>" when a job has become final, "#<n>" when a watched run has changed

local function job_key(id)
  return prefix .. 'job:' .. id
end

local function run_key(n)
  return prefix .. 'run:' .. n
end

local RUN_NUMBERS = { 'submitted_us', 'attempts', 'steps_done', 'previews' }
local RUN_POSITIVES = { 'cost_us', 'weight', 'images', 'steps' } -- others are divided by them
local CLAIM_NUMBERS = { 'started_us', 'lease_us', 'max_attempts', 'rest_us' }
local IS_PRIORITY = { ['0'] = true, ['1'] = true, ['2'] = true }

local function has_numbers(values, names, least)
  for _, name in ipairs(names) do
    if number(values[name], least - 1) < least then
      return false
    end
  end
  return true
end

-- Whether a run has what scripts count on.
local function is_whole(run)
  if not (run.leader and run.owner and run.batch and IS_PRIORITY[run.priority]) then
    return false
  elseif not (has_numbers(run, RUN_NUMBERS, 0) and has_numbers(run, RUN_POSITIVES, 1)) then
    return false
  elseif run.image_bytes and not number(run.image_bytes) then
    return false
  elseif run.state == 'Running' then
    return run.token and run.worker and has_numbers(run, CLAIM_NUMBERS, 0)
  end
  return run.state == 'Waiting'
end

-- The run as a table of its fields and n; nil if it is over or damaged, and then what there is of it.
local function load_run(n)
  local run = as_table(redis.call('HGETALL', run_key(n)))
  run.n = n
  if is_whole(run) then
    return run
  end
  return nil, run
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

-- Of a job whose run is damaged or gone, for its client. Such a job is an orphan until somebody writes that it failed.
local ORPHAN_ERROR = 'what Redis kept of this request is damaged or gone; submit it again'
local ORPHAN = { state = 'Failed', attempts = '0', steps_done = '0', previews = '0' }

-- The job as its client sees it, as a flat list of names and values; empty if unknown.
local function view(id, run)
  local fields = redis.call('HGETALL', job_key(id))
  local job = as_table(fields)
  if not job.content then
    return {}
  end
  if not job.state then
    run = run or (job.run and load_run(job.run)) or ORPHAN
    fields[#fields + 1] = 'state'
    fields[#fields + 1] = run.state
    append_progress(fields, run)
    if run == ORPHAN then
      fields[#fields + 1] = 'error'
      fields[#fields + 1] = ORPHAN_ERROR
      fields[#fields + 1] = 'is_orphan'
      fields[#fields + 1] = '1'
    end
  end
  return fields
end

-- How many jobs of an owner are listed, and for how long after the newest one's result may have expired, at the least: a
-- job may have waited for days.
local MAX_LISTED = 1000
local LISTED_MS = 7 * 24 * 3600 * 1000

local function list_job(owner, n, id, result_ttl_ms)
  local jobs = key('jobs_of:' .. owner)
  redis.call('ZADD', jobs, n, id)
  redis.call('ZREMRANGEBYRANK', jobs, 0, -MAX_LISTED - 1)
  redis.call('PEXPIRE', jobs, integer(result_ttl_ms + LISTED_MS))
end
