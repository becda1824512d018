#!lua
-- Token buckets, kept as a level that drains, as buckets.py does in memory.
--
--   <prefix>rate:<bucket>    hash    level: what was taken and hasn't refilled; at_ms: when that was so
--
-- ARGV: for each charge its bucket, amount, per_minute, burst. Returns {wait_ms (0: taken), and for each charge
-- what remains of its bucket, ms until it is full}. All charges are taken, or none.
local MS_PER_MINUTE = 60000

local now_ms = math.floor(now_us() / 1000)
local charges, wait_ms = {}, 0
for index = 1, #ARGV, 4 do
  local name = key('rate:' .. ARGV[index])
  local amount, per_minute, burst = tonumber(ARGV[index + 1]), tonumber(ARGV[index + 2]), tonumber(ARGV[index + 3])
  local level, at_ms = unpack(redis.call('HMGET', name, 'level', 'at_ms'))
  level = math.max(0, number(level, 0) - math.max(0, now_ms - number(at_ms, now_ms)) * per_minute)
  if amount > 0 then
    local excess = level + (math.min(amount, burst) - burst) * MS_PER_MINUTE
    wait_ms = math.max(wait_ms, math.ceil(excess / per_minute))
  end
  charges[#charges + 1] = { name = name, amount = amount, per_minute = per_minute, burst = burst, level = level }
end

local reply = { wait_ms }
for _, charge in ipairs(charges) do
  if wait_ms == 0 then
    charge.level = math.max(0, charge.level + charge.amount * MS_PER_MINUTE)
    if charge.level == 0 then
      redis.call('DEL', charge.name)
    else
      redis.call('HSET', charge.name, 'level', integer(charge.level), 'at_ms', integer(now_ms))
      redis.call('PEXPIRE', charge.name, integer(math.ceil(charge.level / charge.per_minute) + 1))
    end
  end
  reply[#reply + 1] = math.floor(math.max(0, charge.burst * MS_PER_MINUTE - charge.level) / MS_PER_MINUTE)
  reply[#reply + 1] = math.ceil(charge.level / charge.per_minute)
end
return reply
