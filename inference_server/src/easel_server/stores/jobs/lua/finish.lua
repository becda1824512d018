#!lua flags=allow-oom
-- needs: jobs/runs
-- ARGV: id, token, state, error ('' for none), steps_done ('' to leave it), what was measured: work units ('' if nothing
-- was) and GPU-seconds, decay of earlier measurements (see cost.py), images (see set_images). Returns 1 if this claim's
-- outcome is the job's, also when it was recorded by an earlier call whose reply was lost.
-- Allowed when memory is short: there is room in the service's budget, and the work is done.
local id, token, state, error, steps_done = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local units, seconds, decay = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local IMAGES = 9

local n = redis.call('HGET', key('claims'), token)
if not n then
  return redis.call('HGET', job_key(id), 'finished_by') == token and 1 or 0
end
local run = load_run(n)
if state == 'Succeeded' then
  set_images(run, IMAGES)
end
if steps_done ~= '' then
  run.steps_done = steps_done
end
if run.leader == id or redis.call('HEXISTS', job_key(id), 'content') == 1 then
  redis.call('HSET', job_key(id), 'finished_by', token)
end
end_run(run, state, now_us(), error ~= '' and error or nil)
if units then
  local names = { 'count', 'x', 'y', 'xx', 'xy' }
  local added = { 1, units, seconds, units * units, units * seconds }
  local sums, fields = redis.call('HMGET', key('costs'), unpack(names)), {}
  for index, name in ipairs(names) do
    fields[#fields + 1] = name
    fields[#fields + 1] = number_text((sums[index] or 0) * decay + added[index])
  end
  redis.call('HSET', key('costs'), unpack(fields))
end
return 1
