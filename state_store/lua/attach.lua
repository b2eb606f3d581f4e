-- Keep a value with a session. All that is kept with it lives at least so long.
-- KEYS: session, attachments     ARGV: name, value, milliseconds
if redis.call('EXISTS', KEYS[1]) == 0 then return 'no_session' end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return 'ok'
