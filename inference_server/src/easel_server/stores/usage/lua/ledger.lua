-- What each customer's jobs took, by the day (UTC) on which they ended; kept for longer than the jobs are. What memory.py
-- does likewise; the bounds are those of interface.py.
--
--   <prefix>usage:<day>  hash    customer -> "<jobs> <of them answered from the cache> <images> <GPU-microseconds>"; the day
--                                is counted since 1970

local USAGE_DAY_US = 24 * 3600 * 1000000
local USAGE_DAYS = 93
local USAGE_CUSTOMERS = 1000 -- of one day
local USAGE_OTHERS = '(other)' -- the rest of them: no customer can be called that

-- Adds a job that has just ended. Part of the script that ends it, so that it is counted once, whatever is repeated.
local function count_usage(customer, now, job, cached, images, gpu_us)
  local day = math.floor(now / USAGE_DAY_US)
  local name = key('usage:' .. integer(day))
  local known = redis.call('HGET', name, customer)
  local customers = known and 1 or redis.call('HLEN', name)
  if not known and customers >= USAGE_CUSTOMERS then
    customer = USAGE_OTHERS
    known = redis.call('HGET', name, customer)
  end
  local sums, added = {}, { job, cached, images, gpu_us }
  for word in string.gmatch(known or '', '%S+') do
    sums[#sums + 1] = number(word, 0)
  end
  for index, value in ipairs(added) do
    added[index] = integer((sums[index] or 0) + value)
  end
  redis.call('HSET', name, customer, table.concat(added, ' '))
  if customers == 0 then
    redis.call('PEXPIRE', name, integer(((day + USAGE_DAYS) * USAGE_DAY_US - now) / 1000))
  end
end
