-- A new session whose head is a snapshot of the same lineage.
-- KEYS: snapshot, refs, new session, sessions     ARGV: snapshot id, new session id, body, labels
if redis.call('EXISTS', KEYS[3]) == 1 then return 'ok' end -- sent again after a lost reply
if ARGV[1] ~= '' then
  local refs = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
  if refs < 1 or redis.call('EXISTS', KEYS[1]) == 0 then return 'no_snapshot' end
  redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
end
redis.call('HSET', KEYS[3], 'body', ARGV[3], 'head', ARGV[1], 'labels', ARGV[4])
redis.call('SADD', KEYS[4], ARGV[2])
return 'ok'
