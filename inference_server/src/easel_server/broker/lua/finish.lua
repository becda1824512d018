#!lua
-- ARGV: id, token, state, error ('' for none), steps_done ('' to leave it), images. Returns 1 if this claim's outcome
-- is the job's, also when it was recorded by an earlier call whose reply was lost.
local id, token, state, error, steps_done = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if not is_held(id, token) then
  return redis.call('HGET', job_key(id), 'token') == token and 1 or 0
end
for index = 6, #ARGV do
  redis.call('RPUSH', key('images:' .. id), ARGV[index])
end
if steps_done ~= '' then
  redis.call('HSET', job_key(id), 'steps_done', steps_done)
end
make_final(id, state, now_us(), error ~= '' and error or nil)
return 1
