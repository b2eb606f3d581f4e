-- Keep a set of files for a while, if all blobs that it needs are there; they live as long, and for
-- good if snapshots hold them.
-- KEYS: session, held files, files, blobs
-- ARGV: milliseconds, fields and values of a set that may be new
-- Returns the places of blobs that are missing, counted from 1; {0} if there is no such session.
if redis.call('EXISTS', KEYS[1]) == 0 then return {0} end
local missing, sizes = {}, {}
local function keep(key, kind)
  local left = redis.call('PTTL', key)
  if left < 0 then return left end
  if redis.call('HEXISTS', KEYS[2], kind .. string.match(key, '[^:]*$')) == 1 then
    redis.call('PERSIST', key)
  elseif left < tonumber(ARGV[1]) then
    redis.call('PEXPIRE', key, ARGV[1])
  end
  return left
end
for i = 4, #KEYS do
  if keep(KEYS[i], 'blob:') == -2 then missing[#missing + 1] = i - 3 end
end
if keep(KEYS[3], 'files:') == -2 and #missing == 0 and #ARGV > 1 then
  for i = 4, #KEYS do sizes[i - 3] = redis.call('STRLEN', KEYS[i]) end
  redis.call('HSET', KEYS[3], 'sizes', table.concat(sizes, ' '), unpack(ARGV, 2))
  redis.call('PEXPIRE', KEYS[3], ARGV[1])
  keep(KEYS[3], 'files:')
end
return missing
