-- Write the labels of a session or snapshot that is there.
-- KEYS: session or snapshot     ARGV: labels
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'labels', ARGV[1])
return 1
