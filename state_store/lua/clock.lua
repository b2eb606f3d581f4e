-- The server's time, and the id by which the archive knows this store.
-- KEYS: store id     ARGV: id to take if there is none yet
redis.call('PERSIST', KEYS[1]) -- a full store lets a script add only after it has removed
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return {redis.call('GET', KEYS[1]), redis.call('TIME')[1]}
