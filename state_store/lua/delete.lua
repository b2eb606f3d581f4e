-- Drop a session. Its head is unwound later if nothing else holds it.
-- Returns its labels as they are stored, or '' if it is gone.
-- KEYS: session, lease, refs, dead, sessions, attachments, feed, usage, tree     ARGV: session id
local head, labels = unpack(redis.call('HMGET', KEYS[1], 'head', 'labels'))
if not head then return '' end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[6], KEYS[7])
redis.call('SREM', KEYS[5], ARGV[1])
redis.call('ZREM', KEYS[9], ARGV[1])
local attached = redis.call('HGET', KEYS[8], 'attached:' .. ARGV[1])
if attached then -- see attach.lua
  redis.call('HINCRBY', KEYS[8], 'attached', 0 - attached)
  redis.call('HINCRBY', KEYS[8], 'version', 1)
  redis.call('HDEL', KEYS[8], 'attached:' .. ARGV[1])
end
if head ~= '' and redis.call('HINCRBY', KEYS[3], head, -1) < 1 then
  redis.call('HDEL', KEYS[3], head)
  redis.call('SADD', KEYS[4], head)
end
return labels or ''
