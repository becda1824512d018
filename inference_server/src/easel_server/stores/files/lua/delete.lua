#!lua flags=allow-oom
-- needs: files/kept
-- ARGV: id, owner. Returns 1 if there was such a file.
if redis.call('HGET', file_key(ARGV[1]), 'owner') ~= ARGV[2] then
  return 0
end
drop_file(ARGV[1])
return 1
