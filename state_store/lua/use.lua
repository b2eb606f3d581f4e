-- Note that a session is used now, by the server's clock.
-- KEYS: sessions by last use
-- ARGV: session id, 'XX' to leave one out that is not among them: it may be gone; else empty
local now = redis.call('TIME')[1]
if ARGV[2] == 'XX' then
  redis.call('ZADD', KEYS[1], 'XX', now, ARGV[1])
else
  redis.call('ZADD', KEYS[1], now, ARGV[1])
end
return 1
