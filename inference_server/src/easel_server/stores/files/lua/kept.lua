-- Files that clients upload.
--
--   <prefix>files            zset    id -> when it was put, in microseconds
--   <prefix>file:<id>        hash    owner, size, description (JSON), content, until it expires

local function file_key(id)
  return key('file:' .. id)
end

local function drop_file(id)
  redis.call('DEL', file_key(id))
  redis.call('ZREM', key('files'), id)
end

-- All files, oldest first, as {id, owner, size, created_us}; forgets those that have expired.
local function load_files()
  local ids, files = redis.call('ZRANGE', key('files'), 0, -1, 'WITHSCORES'), {}
  for index = 1, #ids, 2 do
    local owner, size = unpack(redis.call('HMGET', file_key(ids[index]), 'owner', 'size'))
    if owner then
      files[#files + 1] = { id = ids[index], owner = owner, size = number(size, 0), created_us = ids[index + 1] }
    else
      redis.call('ZREM', key('files'), ids[index])
    end
  end
  return files
end
