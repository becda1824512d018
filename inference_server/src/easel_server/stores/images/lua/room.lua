-- needs: redis/shares
-- What the books (images/books) say of the room for another job.

-- When some images stop counting, in microseconds from now; -1 if there are none.
local function next_expiry_us(now)
  local first = redis.call('ZRANGE', key('image:expiry'), 0, 0, 'WITHSCORES')
  return first[2] and integer(math.max(0, first[2] - now)) or '-1'
end

-- Sets room aside for a job (see Reservation and RoomBounds in interface.py), or finds that there is room if it is finished
-- already. What stands in the way, and then nothing changes: {'no_room', reason, used, reserved, next expiry in microseconds
-- from now, inputs, held by the owner}; nil if nothing does. max_jobs ('' for none) bounds the jobs with objects in a bucket,
-- max_input_bytes ('' for none) the bytes of input images.
local function reserve_room(owner, bytes, input_bytes, is_kept, max_bytes, max_input_bytes, max_jobs, is_shared, now)
  local used, reserved, inputs = unpack(redis.call('HMGET', key('image:sums'), 'used', 'reserved', 'inputs'))
  used, reserved, inputs = number(used, 0), number(reserved, 0), number(inputs, 0)
  local taken, held, held_inputs = used + reserved, 0, 0
  if is_shared then
    local found = redis.call('HMGET', key('image:owners'), 'r:' .. owner, 'i:' .. owner)
    held, held_inputs = number(found[1], 0), number(found[2], 0)
  end
  local bounds_inputs = max_input_bytes ~= '' and input_bytes > 0 and not is_kept
  local reason
  if taken + bytes > max_bytes then
    reason = 'bytes'
  elseif max_jobs ~= '' and redis.call('ZCARD', key('image:object_expiry')) >= tonumber(max_jobs) then
    reason = 'jobs'
  elseif is_shared and not is_kept and not has_share(bytes, held, taken, max_bytes) then
    reason = 'share'
  elseif bounds_inputs and inputs + input_bytes > tonumber(max_input_bytes) then
    reason = 'inputs'
  elseif bounds_inputs and is_shared
      and not has_share(input_bytes, held_inputs, inputs, tonumber(max_input_bytes)) then
    reason, held = 'input_share', held_inputs
  elseif not is_kept then
    redis.call('HSET', key('image:sums'), 'reserved', integer(reserved + bytes))
    if input_bytes > 0 then
      redis.call('HSET', key('image:sums'), 'inputs', integer(inputs + input_bytes))
    end
    if is_shared then
      redis.call('HSET', key('image:owners'), 'r:' .. owner, integer(held + bytes), 'i:' .. owner,
        integer(held_inputs + input_bytes))
    end
  end
  if (reason == 'bytes' or reason == 'jobs') and bytes <= max_bytes then
    redis.call('HSET', key('image:sums'), 'refused', integer(bytes))
  elseif reason == 'inputs' and input_bytes <= tonumber(max_input_bytes) then
    redis.call('HSET', key('image:sums'), 'refused_inputs', integer(input_bytes))
  end
  return reason and { 'no_room', reason, integer(used), integer(reserved), next_expiry_us(now), integer(inputs),
    integer(string.find(reason, 'share') and held or 0) }
end
