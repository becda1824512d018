#!lua flags=no-writes
-- needs: images/room
-- Returns {used, reserved, refused, next expiry in microseconds from now or -1}.
local used, reserved, refused = unpack(redis.call('HMGET', key('image:sums'), 'used', 'reserved', 'refused'))
return { used or '0', reserved or '0', refused or '0', next_expiry_us(now_us()) }
