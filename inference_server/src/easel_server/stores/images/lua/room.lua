-- What the books (images/books) say of the room for another job.

-- When some images stop counting, in microseconds from now; -1 if there are none.
local function next_expiry_us(now)
  local first = redis.call('ZRANGE', key('image:expiry'), 0, 0, 'WITHSCORES')
  return first[2] and integer(math.max(0, first[2] - now)) or '-1'
end

-- Sets room aside for a job, or finds that there is room if it is finished already. What stands in the way, and then
-- nothing changes: {'no_room', 'bytes' or 'jobs', used, reserved, next expiry in microseconds from now}; nil if nothing
-- does. max_jobs ('' for none) bounds the jobs with objects in a bucket.
local function reserve_room(bytes, is_kept, max_bytes, max_jobs, now)
  local used, reserved = unpack(redis.call('HMGET', key('image:sums'), 'used', 'reserved'))
  used, reserved = number(used, 0), number(reserved, 0)
  local reason
  if used + reserved + bytes > max_bytes then
    reason = 'bytes'
  elseif max_jobs ~= '' and redis.call('ZCARD', key('image:object_expiry')) >= tonumber(max_jobs) then
    reason = 'jobs'
  elseif not is_kept then
    redis.call('HSET', key('image:sums'), 'reserved', integer(reserved + bytes))
  end
  if reason and bytes <= max_bytes then
    redis.call('HSET', key('image:sums'), 'refused', integer(bytes))
  end
  return reason and { 'no_room', reason, integer(used), integer(reserved), next_expiry_us(now) }
end
