-- Uses: cold_files
-- Keep a set of files for a while, if all blobs that it needs are there; they live as long, and for
-- good if snapshots hold them. What the archive has is there.
-- KEYS: session, held files, wanted files, loose files, cold files, condemned files, files, blobs
-- ARGV: milliseconds; 1 if what is let go of goes at once, unless it is noted as wanted, or else 0;
--       fields and values of a set that may be new
-- Returns the places of blobs that are missing, counted from 1; {0} if there is no such session.
if redis.call('EXISTS', KEYS[1]) == 0 then return {0} end
local missing, sizes = {}, {}
local lives_until = redis.call('TIME')[1] + ARGV[1] / 1000
local function size_of(key, kind)
  if kind == 'blob:' then
    local cold = redis.call('HGET', KEYS[5], string.match(key, '[^:]+$'))
    return cold and bytes_of_cold(cold) or redis.call('STRLEN', key)
  end
  local size = 0
  for _, field in ipairs({'body', 'blobs', 'named', 'sizes'}) do
    size = size + redis.call('HSTRLEN', key, field)
  end
  return size
end
local function keep(key, kind)
  local left, name = redis.call('PTTL', key), string.match(key, '[^:]*$')
  local cold = left == -2 and kind == 'blob:' and redis.call('HGET', KEYS[5], name)
  if left == -2 and not cold then return left end
  local what = kind .. name
  if redis.call('HEXISTS', KEYS[2], what) == 1 then
    redis.call('PERSIST', key)
    if ARGV[2] == '1' then redis.call('HSET', KEYS[3], what, lives_until) end
  elseif cold then
    keep_cold(KEYS[5], name, cold, lives_until)
    redis.call('HSET', KEYS[4], what, lives_until .. ':' .. size_of(key, kind))
  elseif left >= 0 then
    if left < tonumber(ARGV[1]) then redis.call('PEXPIRE', key, ARGV[1]) end
    redis.call('HSET', KEYS[4], what, lives_until .. ':' .. size_of(key, kind))
  end
  return cold and 0 or left
end
for i = 8, #KEYS do
  if keep(KEYS[i], 'blob:') == -2 then missing[#missing + 1] = i - 7 end
end
if keep(KEYS[7], 'files:') == -2 and #missing == 0 and #ARGV > 2 then
  for i = 8, #KEYS do sizes[i - 7] = size_of(KEYS[i], 'blob:') end
  redis.call('HSET', KEYS[7], 'sizes', table.concat(sizes, ' '), unpack(ARGV, 3))
  redis.call('PEXPIRE', KEYS[7], ARGV[1])
  keep(KEYS[7], 'files:')
end
redis.call('PEXPIRE', KEYS[3], ARGV[1])
redis.call('PEXPIRE', KEYS[4], ARGV[1])
return missing
