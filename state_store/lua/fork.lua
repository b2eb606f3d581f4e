-- A new session whose head is a snapshot of the same lineage.
-- KEYS: snapshot, refs, new session, sessions, seed of the lineage, tree
-- ARGV: snapshot id, new session id, body, labels, seed ('' if in the clear), 1 if it begins the
--       lineage, when it was made
if redis.call('EXISTS', KEYS[3]) == 1 then return 'ok' end -- sent again after a lost reply
local root = ARGV[6] == '1'
if root and redis.call('EXISTS', KEYS[4]) == 1 then return 'no_root' end -- it has sessions already
-- The lineage was deleted to its end, and its key destroyed, since the seed was read.
if ARGV[5] ~= '' and not root and redis.call('GET', KEYS[5]) ~= ARGV[5] then return 'no_lineage' end
if ARGV[1] ~= '' then
  local refs = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
  if refs < 1 or redis.call('EXISTS', KEYS[1]) == 0 then return 'no_snapshot' end
  redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
end
redis.call('ZADD', KEYS[6], ARGV[7], ARGV[2])
redis.call('HSET', KEYS[3], 'body', ARGV[3], 'head', ARGV[1], 'labels', ARGV[4])
redis.call('SADD', KEYS[4], ARGV[2])
if ARGV[5] ~= '' and root then redis.call('SET', KEYS[5], ARGV[5]) end
return 'ok'
