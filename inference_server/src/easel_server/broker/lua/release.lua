#!lua flags=allow-oom
-- ARGV: id, token. Returns 1 if the claim was held.
local id, token = ARGV[1], ARGV[2]

if not is_held(id, token) then
  return 0
end
redis.call('HINCRBY', job_key(id), 'attempts', -1)
if redis.call('HGET', job_key(id), 'cancel_requested') then
  make_final(id, 'Canceled', now_us())
else
  hand_back(id)
end
return 1
