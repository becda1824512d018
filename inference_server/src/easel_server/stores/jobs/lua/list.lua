#!lua flags=allow-oom
-- needs: jobs/fields
-- ARGV: owner, n of which older jobs are wanted ('' for the newest), how many.
-- Returns n of the last job if there are older ones, else '', and then id and view of each job, newest first.
local jobs, before, limit = key('jobs_of:' .. ARGV[1]), ARGV[2], tonumber(ARGV[3])
local ids = redis.call('ZRANGE', jobs, before ~= '' and '(' .. before or '+inf', '-inf', 'BYSCORE', 'REV', 'WITHSCORES')
local found, last = { '' }, ''
for index = 1, #ids, 2 do
  local job = view(ids[index])
  if #job == 0 then
    redis.call('ZREM', jobs, ids[index])
  elseif #found > 2 * limit then
    found[1] = last
    break
  else
    found[#found + 1] = ids[index]
    found[#found + 1] = job
    last = ids[index + 1]
  end
end
return found
