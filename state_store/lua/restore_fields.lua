-- Give a snapshot's record the parent that its body names, and a pin if it has none.
-- KEYS: snapshot     ARGV: parent, new pin id
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'parent', ARGV[1])
  redis.call('HSETNX', KEYS[1], 'pin', ARGV[2])
end
return 1
