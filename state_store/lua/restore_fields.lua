-- Give a snapshot's record the parent and the totals that its body and log make, the latter if it
-- counts for quotas, and a pin if it has none.
-- KEYS: snapshot     ARGV: parent, new pin id, bytes, tokens
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'parent', ARGV[1])
  redis.call('HSETNX', KEYS[1], 'pin', ARGV[2])
  if redis.call('HEXISTS', KEYS[1], 'bytes') == 1 then
    redis.call('HSET', KEYS[1], 'bytes', ARGV[3], 'count', ARGV[4])
  end
end
return 1
