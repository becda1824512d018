#!lua flags=allow-oom
-- needs: jobs/runs
-- ARGV: most runs and most jobs to move, error for a passed deadline, error for a lost run with %s for the count and the
-- worker, seconds that a silent worker counts. Returns {requeued, failed, canceled}.
local limit, deadline_error, lost_error, seen_seconds = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local now = now_us()
local requeued, failed, canceled = 0, 0, 0
for _, n in ipairs(redis.call('ZRANGE', key('running'), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, limit)) do
  local run = load_run(n)
  if run.cancel_requested then
    end_run(run, 'Canceled', now)
    canceled = canceled + 1
  elseif tonumber(run.attempts) >= tonumber(run.max_attempts) then
    end_run(run, 'Failed', now, string.format(lost_error, run.attempts, run.worker))
    failed = failed + 1
  else
    release_run(run)
    requeued = requeued + 1
  end
end
for _, id in ipairs(redis.call('ZRANGE', key('deadlines'), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, limit)) do
  leave_run(id, load_run(redis.call('HGET', job_key(id), 'run')), 'Failed', now, deadline_error)
  failed = failed + 1
end
purge_tags()
redis.call('ZREMRANGEBYSCORE', key('workers'), '-inf', integer(now - seen_seconds * 1000000))
return { requeued, failed, canceled }
