-- Remove a field of a hash if it is still what it was.
-- KEYS: hash     ARGV: field, value
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
return 1
