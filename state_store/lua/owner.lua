-- The record of any one session of a lineage.
-- KEYS: sessions     ARGV: key prefix of sessions (same slot)
local id = redis.call('SRANDMEMBER', KEYS[1])
return id and redis.call('HGET', ARGV[1] .. id, 'body')
