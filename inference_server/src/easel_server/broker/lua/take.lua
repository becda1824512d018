#!lua
-- The generic cell rate algorithm: one time per owner, the theoretical arrival of a next request that would keep
-- exactly to the rate. https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
-- ARGV: owner, interval_us between requests, burst. Returns {allowed, remaining, retry_after_us}.
local name, interval_us, burst = key('rate:' .. ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local now = now_us()
-- Never further ahead than a full burst, even if this server's clock was set back since.
local arrival = math.min(math.max(now, tonumber(redis.call('GET', name) or 0)), now + burst * interval_us)
local next_arrival = arrival + interval_us
local early_us = next_arrival - burst * interval_us - now
if early_us > 0 then
  return { 0, 0, integer(early_us) }
end
redis.call('SET', name, integer(next_arrival), 'PX', integer(math.ceil((next_arrival - now) / 1000)))
return { 1, math.floor(-early_us / interval_us), '0' }
