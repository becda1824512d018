-- Prepended to every script. KEYS[1] is the service's prefix; every key touched begins with it, so all share one hash slot
-- and one ACL pattern. Times are microseconds of this server's clock; no other clock counts. Each store's keys are listed
-- beside it: jobs/lua/fields.lua, outbox/lua/hosts.lua, cache/lua/put.lua, limits/lua/take.lua, images/lua/books.lua,
-- facts/redis.py, files/lua/kept.lua, usage/lua/ledger.lua.

local prefix = KEYS[1]

local function key(name)
  return prefix .. name
end

-- What this server keeps may be damaged, by hand or because it was told to evict: no record that is gone or isn't what it
-- should be may stop a script. Whatever is dropped for that is noted here, and reported by the next reap.
--
--   <prefix>dropped  list  "<kind> <id>" of records that were dropped
local MAX_DROPPED = 1000
local server = redis

local function note_dropped(kind, id)
  local noted = server.pcall('LPUSH', key('dropped'), kind .. ' ' .. id)
  if type(noted) == 'number' and noted > MAX_DROPPED then
    server.pcall('LTRIM', key('dropped'), 0, MAX_DROPPED - 1)
  elseif type(noted) ~= 'number' then
    server.pcall('DEL', key('dropped'))
  end
end

-- Drops what keeps a command from being carried out, if the error says that something does: a key of another type, or text
-- where a number is added to.
local function drop_obstacle(problem, command, name, field)
  local is_no_number = string.find(problem, 'not an integer', 1, true) or string.find(problem, 'would overflow', 1, true)
  if string.sub(problem, 1, 9) == 'WRONGTYPE' or (is_no_number and command ~= 'HINCRBY') then
    if type(server.pcall('DEL', name)) ~= 'number' then -- this script may not write: connection.py drops it, and repeats
      error({ err = 'DAMAGED ' .. name })
    end
    note_dropped('key', string.sub(name, #prefix + 1))
    return true
  elseif is_no_number then
    server.call('HDEL', name, field)
    note_dropped('field', string.sub(name, #prefix + 1) .. ' ' .. field)
    return true
  end
  return false
end

-- Instead of the server's own table of this name, in all scripts.
local redis = {}
local attempt = server.pcall -- looked up once: this is called for every command of every script

function redis.call(command, ...)
  local reply = attempt(command, ...)
  if type(reply) == 'table' and reply.err then
    if drop_obstacle(reply.err, command, ...) then
      return server.call(command, ...)
    end
    error(reply)
  end
  return reply
end

-- A stored number; the default where it is missing or none that could be right.
local LARGEST_NUMBER = 2 ^ 53

local function number(text, default)
  local value = tonumber(text)
  return value and value >= -LARGEST_NUMBER and value <= LARGEST_NUMBER and value or default
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
