#!lua
-- needs: files/kept redis/shares
-- ARGV: id, owner, size, description, content, ttl_ms, then the bounds max_customer_bytes, max_bytes, max_files.
-- Returns when it was put, in microseconds; '' if there is no room for it.
local id, owner, size = ARGV[1], ARGV[2], tonumber(ARGV[3])
local max_customer_bytes, max_bytes, max_files = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local files = load_files()
local total, own, own_bytes, count = 0, {}, 0, #files
for _, file in ipairs(files) do
  total = total + file.size
  if file.owner == owner then
    own[#own + 1] = file
    own_bytes = own_bytes + file.size
  end
end
local dropped = 0

local function fits()
  return own_bytes + size <= max_customer_bytes and has_share(size, own_bytes, total, max_bytes)
    and has_share(1, #own - dropped, count, max_files)
end

while dropped < #own and not fits() do
  dropped = dropped + 1
  own_bytes, total, count = own_bytes - own[dropped].size, total - own[dropped].size, count - 1
end
if not fits() then
  return ''
end
for index = 1, dropped do
  drop_file(own[index].id)
end
local now = integer(now_us())
redis.call('HSET', file_key(id), 'owner', owner, 'size', size, 'description', ARGV[4], 'content', ARGV[5])
redis.call('PEXPIRE', file_key(id), ARGV[6])
redis.call('ZADD', key('files'), now, id)
redis.call('PEXPIRE', key('files'), ARGV[6])
return now
