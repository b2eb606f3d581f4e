-- Keep a set of files for a while, if all blobs that it needs are there; they live as long.
-- KEYS: session, files, blobs     ARGV: milliseconds, fields and values of a set that may be new
-- Returns the places of blobs that are missing, counted from 1; {0} if there is no such session.
if redis.call('EXISTS', KEYS[1]) == 0 then return {0} end
local missing, sizes = {}, {}
for i = 3, #KEYS do
  local left = redis.call('PTTL', KEYS[i])
  if left == -2 then missing[#missing + 1] = i - 2 end
  if left >= 0 and left < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
end
local left = redis.call('PTTL', KEYS[2])
if #missing == 0 and left == -2 and #ARGV > 1 then
  for i = 3, #KEYS do sizes[i - 2] = redis.call('STRLEN', KEYS[i]) end
  redis.call('HSET', KEYS[2], 'sizes', table.concat(sizes, ' '), unpack(ARGV, 2))
  left = 0
end
if left >= 0 and left < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[2], ARGV[1]) end
return missing
