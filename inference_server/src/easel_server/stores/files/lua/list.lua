#!lua flags=allow-oom
-- needs: files/kept
-- ARGV: owner. Returns description and time of each of the owner's files, newest first.
local files, found = load_files(), {}
for index = #files, 1, -1 do
  local description = files[index].owner == ARGV[1] and redis.call('HGET', file_key(files[index].id), 'description')
  if description then
    found[#found + 1] = description
    found[#found + 1] = files[index].created_us
  end
end
return found
