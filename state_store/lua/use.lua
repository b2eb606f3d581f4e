-- Note that a session is used now, by the server's clock.
-- KEYS: sessions by last use     ARGV: session id
redis.call('ZADD', KEYS[1], redis.call('TIME')[1], ARGV[1])
return 1
