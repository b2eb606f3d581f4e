-- Put a note on a session, and list it for who deletes the session.
-- KEYS: note, list of the session's notes     ARGV: value, milliseconds that it lives, its name
local time = redis.call('TIME')
local now, ttl = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZADD', KEYS[2], now + ttl, ARGV[3])
if redis.call('PTTL', KEYS[2]) < ttl then redis.call('PEXPIRE', KEYS[2], ttl) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ttl)
return 'ok'
