#!lua flags=allow-oom
-- needs: queue runs
-- ARGV: id. Returns the job as it is now, empty if unknown.
local id = ARGV[1]

local n, state = unpack(redis.call('HMGET', job_key(id), 'run', 'state'))
if n and not state then
  local is_alone = redis.call('ZCARD', key('followers:' .. n)) == 0
  if is_alone then
    redis.call('HSET', run_key(n), 'cancel_requested', 1)
  end
  if is_alone and redis.call('HGET', run_key(n), 'state') == 'Running' then
    close_flight(n)
    publish_change(n)
  else
    redis.call('HSET', job_key(id), 'cancel_requested', 1)
    leave_run(id, n, 'Canceled', now_us())
  end
end
return view(id)
