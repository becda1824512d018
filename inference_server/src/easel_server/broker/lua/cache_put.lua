#!lua
-- ARGV: key, ttl_ms, images.
local name = key('cache:' .. ARGV[1])
redis.call('DEL', name)
for index = 3, #ARGV do
  redis.call('RPUSH', name, ARGV[index])
end
redis.call('PEXPIRE', name, ARGV[2])
return 1
