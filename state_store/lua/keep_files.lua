-- Keep a set of files for a while, if all blobs that it needs are there; they live as long, and for
-- good if snapshots hold them.
-- KEYS: session, held files, wanted files, files, blobs
-- ARGV: milliseconds; 1 if what is let go of goes at once, unless it is noted as wanted, or else 0;
--       fields and values of a set that may be new
-- Returns the places of blobs that are missing, counted from 1; {0} if there is no such session.
if redis.call('EXISTS', KEYS[1]) == 0 then return {0} end
local missing, sizes = {}, {}
local wanted_until = redis.call('TIME')[1] + ARGV[1] / 1000
local function keep(key, kind)
  local left = redis.call('PTTL', key)
  if left == -2 then return left end
  local what = kind .. string.match(key, '[^:]*$')
  if redis.call('HEXISTS', KEYS[2], what) == 1 then
    redis.call('PERSIST', key)
    if ARGV[2] == '1' then redis.call('HSET', KEYS[3], what, wanted_until) end
  elseif left >= 0 and left < tonumber(ARGV[1]) then
    redis.call('PEXPIRE', key, ARGV[1])
  end
  return left
end
for i = 5, #KEYS do
  if keep(KEYS[i], 'blob:') == -2 then missing[#missing + 1] = i - 4 end
end
if keep(KEYS[4], 'files:') == -2 and #missing == 0 and #ARGV > 2 then
  for i = 5, #KEYS do sizes[i - 4] = redis.call('STRLEN', KEYS[i]) end
  redis.call('HSET', KEYS[4], 'sizes', table.concat(sizes, ' '), unpack(ARGV, 3))
  redis.call('PEXPIRE', KEYS[4], ARGV[1])
  keep(KEYS[4], 'files:')
end
redis.call('PEXPIRE', KEYS[3], ARGV[1])
return missing
