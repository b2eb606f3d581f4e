-- Keep values with a session, and delete others. All that is kept with it lives at least so long.
-- KEYS: session, attachments, usage, mark of this call
-- ARGV: session id, milliseconds, how many are to be kept, how many were seen, name and value of
--       each that is to be kept, name and SHA-1 of each that was seen or '' if it was not there,
--       names of those that are to go
-- Returns how many of those were there; or -1 if the session is gone, -2 if one that was seen is not
-- as it was: then nothing is done.
-- The lineage's usage has the bytes of all that is kept with a session, names included, and of all
-- sessions together. A count may be older than what has expired, or missing though something is kept.
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local before = redis.call('GET', KEYS[4])
if before then return tonumber(before) end -- sent again after a lost reply
local first_seen = 5 + 2 * ARGV[3]
local first_gone = first_seen + 2 * ARGV[4]
for i = first_seen, first_gone - 1, 2 do
  local now = redis.call('HGET', KEYS[2], ARGV[i])
  if (now and redis.sha1hex(now) or '') ~= ARGV[i + 1] then return -2 end
end
local gone = 0
for i = first_gone, #ARGV do gone = gone + redis.call('HEXISTS', KEYS[2], ARGV[i]) end
-- A full store lets a script add only after it has removed.
if first_seen == 5 then redis.call('PERSIST', KEYS[1]) end
redis.call('SET', KEYS[4], gone, 'EX', 60)
local function size_of(name)
  if redis.call('HEXISTS', KEYS[2], name) == 0 then return 0 end
  return #name + redis.call('HSTRLEN', KEYS[2], name)
end
local field = 'attached:' .. ARGV[1]
local counted = redis.call('HGET', KEYS[3], field)
local bytes = tonumber(counted or '0')
if not counted or redis.call('EXISTS', KEYS[2]) == 0 then
  bytes = 0
  for _, name in ipairs(redis.call('HKEYS', KEYS[2])) do bytes = bytes + size_of(name) end
end
for i = 5, first_seen - 1, 2 do bytes = bytes + #ARGV[i] + #ARGV[i + 1] - size_of(ARGV[i]) end
for i = first_gone, #ARGV do bytes = bytes - size_of(ARGV[i]) end
redis.call('HSET', KEYS[3], field, bytes)
redis.call('HINCRBY', KEYS[3], 'attached', bytes - (counted or 0))
redis.call('HINCRBY', KEYS[3], 'version', 1)
for i = 5, first_seen - 1, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
for i = first_gone, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
if bytes == 0 then redis.call('HDEL', KEYS[3], field) end
if first_seen > 5 and redis.call('PTTL', KEYS[2]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
return gone
