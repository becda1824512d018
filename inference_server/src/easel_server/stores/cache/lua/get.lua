#!lua flags=allow-oom
-- ARGV: key. Returns {warnings (JSON, '' for none), age_us, images} of an entry and counts it as used now; empty if there is none.
local entry = redis.call('LRANGE', key('cache:entry:' .. ARGV[1]), 0, -1)
if #entry == 0 then
  return {}
end
local now = now_us()
if not number(entry[1]) then
  note_dropped('cache', ARGV[1])
  redis.call('DEL', key('cache:entry:' .. ARGV[1]))
  return {}
end
redis.call('ZADD', key('cache:used'), 'XX', integer(now), ARGV[1])
entry[1] = integer(math.max(0, now - entry[1]))
table.insert(entry, 1, redis.call('GET', key('cache:warnings:' .. ARGV[1])) or '')
return entry
