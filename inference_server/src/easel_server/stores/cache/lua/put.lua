#!lua
-- Images by what determines them.
--
--   <prefix>cache:entry:<k>  list    when an earlier job with the same parameters was finished, and its images
--   <prefix>cache:warnings:<k> string  what that job was warned of (JSON), if it was; lives as long as the entry
--   <prefix>cache:used       zset    entry -> when it was last used
--   <prefix>cache:expiry     zset    entry -> when it expires
--   <prefix>cache:sizes      hash    entry -> its bytes
--   <prefix>cache:bytes      string  their sum
--
-- ARGV: key, ttl_ms, age_us, budget and size in bytes, warnings ('' for none), images. Replaces the entry; the least recently used make room. Expired
-- entries vanish by themselves, and from the books when the next one is put.
local PURGE_LIMIT = 100
local name, ttl_ms, age_us = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local budget, bytes, warnings = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]

local function drop(entry)
  redis.call('DEL', key('cache:entry:' .. entry), key('cache:warnings:' .. entry))
  redis.call('ZREM', key('cache:used'), entry)
  redis.call('ZREM', key('cache:expiry'), entry)
  redis.call('DECRBY', key('cache:bytes'), integer(number(redis.call('HGET', key('cache:sizes'), entry), 0)))
  redis.call('HDEL', key('cache:sizes'), entry)
end

-- Part of the books was lost: entries that stand in one of them alone are the next to go, or go at once.
local function repair_books()
  local sizes, sum = redis.call('HGETALL', key('cache:sizes')), 0
  for index = 1, #sizes, 2 do
    redis.call('ZADD', key('cache:used'), 'NX', 0, sizes[index])
    sum = sum + number(sizes[index + 1], 0)
  end
  redis.call('SET', key('cache:bytes'), integer(sum))
  for _, entry in ipairs(redis.call('ZRANGE', key('cache:used'), 0, -1)) do
    if redis.call('HEXISTS', key('cache:sizes'), entry) == 0 then
      drop(entry)
    end
  end
  note_dropped('cache', 'books')
end

local now = now_us()
drop(name)
if bytes > budget then
  return 0
end
for _, entry in ipairs(
  redis.call('ZRANGE', key('cache:expiry'), '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, PURGE_LIMIT)) do
  drop(entry)
end
if number(redis.call('GET', key('cache:bytes')), -1) < 0
    or redis.call('ZCARD', key('cache:used')) ~= redis.call('HLEN', key('cache:sizes')) then
  repair_books()
end
local oldest = redis.call('ZRANGE', key('cache:used'), 0, 0)[1]
while oldest and number(redis.call('GET', key('cache:bytes')), 0) + bytes > budget do
  drop(oldest)
  oldest = redis.call('ZRANGE', key('cache:used'), 0, 0)[1]
end
redis.call('RPUSH', key('cache:entry:' .. name), integer(now - age_us), unpack(ARGV, 7))
redis.call('PEXPIRE', key('cache:entry:' .. name), ttl_ms)
if warnings ~= '' then
  redis.call('SET', key('cache:warnings:' .. name), warnings, 'PX', ttl_ms)
end
redis.call('ZADD', key('cache:expiry'), integer(now + ttl_ms * 1000), name)
redis.call('ZADD', key('cache:used'), integer(now), name)
redis.call('HSET', key('cache:sizes'), name, bytes)
redis.call('INCRBY', key('cache:bytes'), bytes)
return 1
