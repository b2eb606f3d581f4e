-- Keep a value with a session. All that is kept with it lives at least so long.
-- KEYS: session, attachments     ARGV: name, value, milliseconds
-- Returns the bytes of all that is kept with it now, names included, which a field without a name
-- counts; or -1 if the session is gone.
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local added = #ARGV[2] - redis.call('HSTRLEN', KEYS[2], ARGV[1])
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then added = added + #ARGV[1] end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local bytes = redis.call('HINCRBY', KEYS[2], '', added)
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return bytes
