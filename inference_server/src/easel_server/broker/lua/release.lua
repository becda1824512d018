#!lua flags=allow-oom
-- needs: queue runs
-- ARGV: token. Returns 1 if the claim was held.
local n = redis.call('HGET', key('claims'), ARGV[1])
if not n then
  return 0
end
redis.call('HINCRBY', run_key(n), 'attempts', -1)
if redis.call('HGET', run_key(n), 'cancel_requested') then
  end_run(n, 'Canceled', now_us())
else
  hand_back(n)
end
return 1
