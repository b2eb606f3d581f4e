-- Replace what is recorded of one effect, if it is still what the caller has read.
-- KEYS: session, effects, usage     ARGV: field, stored before or '', to be stored
if redis.call('EXISTS', KEYS[1]) == 0 then return 'no_session' end
local stored = redis.call('HGET', KEYS[2], ARGV[1]) or ''
if stored == ARGV[3] then return 'ok' end -- the reply was lost, and this runs again
if stored ~= ARGV[2] then return 'changed' end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('HINCRBY', KEYS[3], 'effects', #ARGV[3] - #stored)
redis.call('HINCRBY', KEYS[3], 'version', 1)
return 'ok'
