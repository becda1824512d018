#!lua flags=no-writes
-- needs: images/room
-- Returns {used, reserved, refused, inputs, refused inputs, next expiry in microseconds from now or -1}.
local sums = redis.call('HMGET', key('image:sums'), 'used', 'reserved', 'refused', 'inputs', 'refused_inputs')
for index = 1, 5 do
  sums[index] = integer(number(sums[index], 0))
end
sums[6] = next_expiry_us(now_us())
return sums
