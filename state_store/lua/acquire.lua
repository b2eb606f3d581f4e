-- KEYS: session, lease, fence     ARGV: owner, milliseconds
if redis.call('EXISTS', KEYS[1]) == 0 then return {'no_session', ''} end
local lease = redis.call('GET', KEYS[2])
if lease then return {'held', lease} end
local fence = redis.call('INCR', KEYS[3])
redis.call('SET', KEYS[2], fence .. ':' .. ARGV[1], 'PX', ARGV[2])
return {'ok', tostring(fence)}
