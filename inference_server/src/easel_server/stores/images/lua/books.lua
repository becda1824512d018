-- The books of the images that finished jobs have, and of the room that jobs under way may need. A finished job's bytes are
-- counted until a moment soon after its images have expired; moments are a thousandth of a result's time to live apart,
-- so that the books don't grow with the number of jobs.
--
--   <prefix>image:sums          hash    bytes: used, reserved for runs under way, inputs (input images of those, also reserved),
--                                       refused and refused_inputs (what the job that was refused last would have needed),
--                                       e:<moment> of images that count until then
--   <prefix>image:owners        hash    bytes that are reserved for runs of an owner, where several share the room:
--                                       r:<owner> in all, i:<owner> of input images
--   <prefix>image:expiry        zset    moment -> itself, in microseconds
--   <prefix>image:holders:<n>   string  jobs that still have the images of run n, if they are several; expires with them
--   <prefix>image:objects       hash    entry -> keys of objects in a bucket, separated by spaces; an entry is the number of a
--                                       run that has them, or u<random> of those that no job has named yet
--   <prefix>image:object_expiry zset    entry -> when its objects are to be deleted

local DELETE_AGAIN_US = 60000000 -- as DELETE_AGAIN_SECONDS in interface.py
local MOMENTS = 1000 -- of a result's time to live

-- The first moment by which images have expired that a job has had since finished_us.
local function moment_of(finished_us, ttl_ms)
  local apart_us = math.max(1, math.floor(ttl_ms * 1000 / MOMENTS))
  return integer(math.ceil((finished_us + ttl_ms * 1000) / apart_us) * apart_us)
end

local function release_room(bytes, moment)
  local field = 'e:' .. moment
  local used, until_then = unpack(redis.call('HMGET', key('image:sums'), 'used', field))
  if until_then then
    redis.call('HSET', key('image:sums'), 'used', integer(math.max(0, number(used, 0) - bytes)), field,
      integer(math.max(0, number(until_then, 0) - bytes)))
  end
end

local function forget_objects(entry)
  redis.call('ZREM', key('image:object_expiry'), entry)
  redis.call('HDEL', key('image:objects'), entry)
end

-- What was set aside for a run's input images, and for its owner, isn't any more. (The sum of all that is reserved is the
-- callers' to lower.)
local function free_shares(run)
  local bytes, input_bytes = number(run.image_bytes, 0), number(run.input_bytes, 0)
  if input_bytes > 0 then
    local inputs = number(redis.call('HGET', key('image:sums'), 'inputs'), 0)
    redis.call('HSET', key('image:sums'), 'inputs', integer(math.max(0, inputs - input_bytes)))
  end
  if run.is_shared and run.owner then
    for field, freed in pairs({ ['r:' .. run.owner] = bytes, ['i:' .. run.owner] = input_bytes }) do
      local left = number(redis.call('HGET', key('image:owners'), field), 0) - freed
      if left > 0 then
        redis.call('HSET', key('image:owners'), field, integer(left))
      else
        redis.call('HDEL', key('image:owners'), field)
      end
    end
  end
end

-- Frees what was reserved for a run that has ended without images.
local function free_room(run)
  if tonumber(run.image_bytes or 0) > 0 then
    redis.call('HINCRBY', key('image:sums'), 'reserved', 0 - run.image_bytes)
  end
  free_shares(run)
end

-- Turns what was reserved for a run into its images, which so many jobs have from now on.
local function keep_images(run, jobs, ttl_ms, now)
  local bytes, moment = string.match(run.images_kept, '^%d+'), moment_of(now, ttl_ms)
  local field = 'e:' .. moment
  local used, reserved, until_then = unpack(redis.call('HMGET', key('image:sums'), 'used', 'reserved', field))
  redis.call('HSET', key('image:sums'), 'used', integer(number(used, 0) + bytes), 'reserved',
    integer(math.max(0, number(reserved, 0) - number(run.image_bytes, 0))), field, integer(number(until_then, 0) + bytes))
  free_shares(run)
  if not until_then then
    redis.call('ZADD', key('image:expiry'), moment, moment)
  end
  if jobs > 1 then
    redis.call('SET', key('image:holders:' .. run.n), jobs, 'PX', integer(ttl_ms))
  end
  if run.announced == '' then
    redis.call('PEXPIRE', key('images:' .. run.n), integer(ttl_ms))
  else
    forget_objects(run.announced)
    redis.call('HSET', key('image:objects'), run.n, run.object_keys)
    redis.call('ZADD', key('image:object_expiry'), integer(now + ttl_ms * 1000), run.n)
  end
end
