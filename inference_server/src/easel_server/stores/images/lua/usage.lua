#!lua flags=no-writes
-- needs: images/room
-- Returns {used, reserved, refused, next expiry in microseconds from now or -1}.
local used, reserved, refused = unpack(redis.call('HMGET', key('image:sums'), 'used', 'reserved', 'refused'))
return { integer(number(used, 0)), integer(number(reserved, 0)), integer(number(refused, 0)), next_expiry_us(now_us()) }
