-- The records of so many sessions of a lineage, whichever, but for those that are lost.
-- KEYS: sessions     ARGV: key prefix of sessions (same slot), how many at most
local bodies = {}
for _, id in ipairs(redis.call('SRANDMEMBER', KEYS[1], ARGV[2])) do
  bodies[#bodies + 1] = redis.call('HGET', ARGV[1] .. id, 'body') or nil
end
return bodies
