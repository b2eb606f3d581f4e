-- Take a session whose record is lost, or cannot be read, off its lineage.
-- KEYS: session, lease, sessions, attachments, feed, tree     ARGV: session id, body as it was read ('' if missing)
if (redis.call('HGET', KEYS[1], 'body') or '') ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[4], KEYS[5])
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[1])
return 1
