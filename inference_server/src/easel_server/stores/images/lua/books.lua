-- The books of the images that finished jobs have, and of the room that jobs under way may need. An entry is <run>:<bytes>
-- of a run whose jobs have images, or u<random>:0 of objects that were put into a bucket and no job has named yet.
--
--   <prefix>image:sums       hash  bytes: used by entries, reserved for runs under way, refused (what the job that was
--                                  refused last would have needed)
--   <prefix>image:expiry     zset  entry -> when it expires
--   <prefix>image:holders    hash  entry -> jobs that still have its images, if they are several
--   <prefix>image:objects    hash  entry -> keys of its objects in a bucket, separated by spaces

local DELETE_AGAIN_US = 60000000 -- as DELETE_AGAIN_SECONDS in interface.py

local function image_entry(n, bytes)
  return n .. ':' .. integer(bytes)
end

local function add_image_bytes(sum, bytes)
  redis.call('HINCRBY', key('image:sums'), sum, integer(bytes))
end

-- When the next entry expires, in microseconds from now; -1 if none does.
local function next_image_expiry_us(now)
  local first = redis.call('ZRANGE', key('image:expiry'), 0, 0, 'WITHSCORES')
  local expiry_us = tonumber(first[2])
  return expiry_us and expiry_us < math.huge and integer(math.max(0, expiry_us - now)) or '-1'
end

-- What stands in the way of a job that needs this room: {'no_room', 'bytes' or 'jobs', used, reserved, next expiry in
-- microseconds from now}; nil if nothing does.
local function refuse_images(bytes, max_bytes, max_jobs, now)
  local used, reserved = unpack(redis.call('HMGET', key('image:sums'), 'used', 'reserved'))
  local reason
  if (used or 0) + (reserved or 0) + bytes > max_bytes then
    reason = 'bytes'
  elseif redis.call('ZCARD', key('image:expiry')) >= max_jobs then
    reason = 'jobs'
  else
    return nil
  end
  if bytes <= max_bytes then
    redis.call('HSET', key('image:sums'), 'refused', integer(bytes))
  end
  return { 'no_room', reason, used or '0', reserved or '0', next_image_expiry_us(now) }
end

local function forget_images(entry)
  if redis.call('ZREM', key('image:expiry'), entry) == 1 then
    add_image_bytes('used', 0 - string.match(entry, ':(%d+)$'))
    redis.call('HDEL', key('image:holders'), entry)
    redis.call('HDEL', key('image:objects'), entry)
  end
end

-- Images that so many jobs have from now on. The announced entry, '' for none, is this one's from now on.
local function keep_images(entry, holders, expiry_us, announced, object_keys)
  add_image_bytes('used', string.match(entry, ':(%d+)$'))
  redis.call('ZADD', key('image:expiry'), integer(expiry_us), entry)
  if holders > 1 then
    redis.call('HSET', key('image:holders'), entry, holders)
  end
  if announced ~= '' then
    forget_images(announced)
    redis.call('HSET', key('image:objects'), entry, object_keys)
  end
end

-- One job fewer has these images. Returns {entry, keys of objects} if they are in a bucket and were the last one's; else
-- an empty list, and what nobody has is gone.
local function release_images(entry, images_key, now)
  local holders = redis.call('HGET', key('image:holders'), entry)
  if holders and tonumber(holders) > 1 then
    redis.call('HINCRBY', key('image:holders'), entry, -1)
    return {}
  end
  redis.call('DEL', images_key)
  local object_keys = redis.call('HGET', key('image:objects'), entry)
  if object_keys then -- the caller deletes them; if it doesn't come to that, they have expired
    redis.call('ZADD', key('image:expiry'), 'XX', integer(now + DELETE_AGAIN_US), entry)
    return { entry, object_keys }
  end
  forget_images(entry)
  return {}
end

-- Objects that were announced are held until they are dropped, however long that takes.
local function hold_objects(entry)
  redis.call('ZADD', key('image:expiry'), 'XX', '+inf', entry)
end

local function drop_objects(entry, now)
  redis.call('ZADD', key('image:expiry'), 'XX', integer(now), entry)
end
