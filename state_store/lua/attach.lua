-- Keep values with a session, and delete others. All that is kept with it lives at least so long.
-- KEYS: session, attachments, usage
-- ARGV: session id, milliseconds, how many are to be kept, name and value of each, names of those
--       that are to go
-- Returns how many of those were there; or -1 if the session is gone.
-- The lineage's usage has the bytes of all that is kept with a session, names included, and of all
-- sessions together. A count may be older than what has expired, or missing though something is kept.
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local function size_of(name)
  if redis.call('HEXISTS', KEYS[2], name) == 0 then return 0 end
  return #name + redis.call('HSTRLEN', KEYS[2], name)
end
local field, first_gone = 'attached:' .. ARGV[1], 4 + 2 * ARGV[3]
local counted = redis.call('HGET', KEYS[3], field)
local bytes = tonumber(counted or '0')
if not counted or redis.call('EXISTS', KEYS[2]) == 0 then
  bytes = 0
  for _, name in ipairs(redis.call('HKEYS', KEYS[2])) do bytes = bytes + size_of(name) end
end
for i = 4, first_gone - 1, 2 do bytes = bytes + #ARGV[i] + #ARGV[i + 1] - size_of(ARGV[i]) end
for i = first_gone, #ARGV do bytes = bytes - size_of(ARGV[i]) end
redis.call('HSET', KEYS[3], field, bytes)
redis.call('HINCRBY', KEYS[3], 'attached', bytes - (counted or 0))
redis.call('HINCRBY', KEYS[3], 'version', 1)
for i = 4, first_gone - 1, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
local gone = 0
for i = first_gone, #ARGV do gone = gone + redis.call('HDEL', KEYS[2], ARGV[i]) end
if bytes == 0 then redis.call('HDEL', KEYS[3], field) end
if first_gone > 4 and redis.call('PTTL', KEYS[2]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
return gone
