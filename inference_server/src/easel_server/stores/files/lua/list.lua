#!lua
-- needs: files/kept
-- ARGV: owner. Returns description and time of each of the owner's files, newest first.
local files, found = load_files(), {}
for index = #files, 1, -1 do
  if files[index].owner == ARGV[1] then
    found[#found + 1] = redis.call('HGET', file_key(files[index].id), 'description')
    found[#found + 1] = files[index].created_us
  end
end
return found
