#!lua flags=allow-oom
-- needs: outbox/hosts
-- ARGV: name, attempt that postpones, delay_us, most attempts at once at one host. The attempt tells an older deliverer
-- from the one that took over.
local name, attempt, delay_us = ARGV[1], ARGV[2], tonumber(ARGV[3])

if redis.call('HGET', key('delivery:' .. name), 'attempt') == attempt then
  end_attempt(name, now_us() + delay_us, tonumber(ARGV[4]))
end
return 1
