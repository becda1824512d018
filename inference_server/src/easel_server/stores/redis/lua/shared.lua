-- Prepended to every script. KEYS[1] is the service's prefix; every key touched begins with it, so all share one hash slot
-- and one ACL pattern. Times are microseconds of this server's clock; no other clock counts. Each store's keys are listed
-- beside it: jobs/lua/fields.lua, outbox/lua/hosts.lua, cache/lua/put.lua, limits/lua/take.lua, images/lua/books.lua,
-- facts/redis.py.

local prefix = KEYS[1]

local function key(name)
  return prefix .. name
end

-- Lua prints large numbers as 1.8e+15.
local function integer(number)
  return string.format('%.0f', number)
end

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function number_text(number)
  return string.format('%.17g', number)
end

-- A flat list of names and values as a table.
local function as_table(fields)
  local values = {}
  for index = 1, #fields, 2 do
    values[fields[index]] = fields[index + 1]
  end
  return values
end

-- Wakes one of those who sleep on the list, if fewer wake-ups than pieces of work are there already.
local function notify(wakeups, queue)
  if redis.call('LLEN', key(wakeups)) < redis.call('ZCARD', key(queue)) then
    redis.call('RPUSH', key(wakeups), '1')
  end
end
