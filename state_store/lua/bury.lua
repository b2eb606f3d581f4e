-- Remove a dead snapshot whose pins are gone, and let go of its parent.
-- KEYS: snapshot, tokens, refs, dead, usage     ARGV: snapshot id, pin id that was removed
if redis.call('SISMEMBER', KEYS[4], ARGV[1]) == 0 then return 'alive' end
if (redis.call('HGET', KEYS[1], 'pin') or '') ~= ARGV[2] then return 'alive' end
local refs = redis.call('HGET', KEYS[3], ARGV[1])
if refs and (tonumber(refs) or 1) > 0 then -- see doomed.lua; repair pins its objects again
  redis.call('SREM', KEYS[4], ARGV[1])
  return 'alive'
end
local parent, size, count = unpack(redis.call('HMGET', KEYS[1], 'parent', 'bytes', 'count'))
redis.call('DEL', KEYS[1], KEYS[2])
if size then
  redis.call('HINCRBY', KEYS[5], 'bytes', 0 - size) -- and not -size: Redis 7.0 refuses a -0
  redis.call('HINCRBY', KEYS[5], 'tokens', 0 - count)
  redis.call('HINCRBY', KEYS[5], 'version', 1)
end
if parent and parent ~= '' and redis.call('HINCRBY', KEYS[3], parent, -1) < 1 then
  redis.call('HDEL', KEYS[3], parent)
  redis.call('SADD', KEYS[4], parent)
end
-- Last: a set that loses its last member is gone, and while its slot moves to another master of a
-- cluster a script that makes a key anew is broken off half way.
redis.call('SREM', KEYS[4], ARGV[1])
return 'ok'
