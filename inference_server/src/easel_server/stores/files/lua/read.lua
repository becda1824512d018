#!lua flags=no-writes
-- needs: files/kept
-- ARGV: id, owner. Returns the content, or nil.
if redis.call('HGET', file_key(ARGV[1]), 'owner') ~= ARGV[2] then
  return false
end
return redis.call('HGET', file_key(ARGV[1]), 'content')
