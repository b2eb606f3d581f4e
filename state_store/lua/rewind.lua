-- Move a session's head back to a snapshot that its expected head descends from, if the caller may.
-- KEYS: session, lease, refs, dead
-- ARGV: lease token, expected head, snapshot id ('' for before the first turn)
-- Returns {'ok', ''} or {reason, detail}.
local token, expected, id = unpack(ARGV)
local head = redis.call('HGET', KEYS[1], 'head')
if not head then return {'no_session', ''} end
local lease = redis.call('GET', KEYS[2])
if not lease or string.match(lease, '^%d+:%x+') ~= token then
  return {'lease_lost', lease and string.match(lease, '^%d+:%x+:(.*)$') or ''}
end
if head == id then return {'ok', ''} end -- sent again after a lost reply
if head ~= expected then return {'head_moved', head} end
redis.call('PERSIST', KEYS[1]) -- a full store lets a script add only after it has removed
-- Its descendants hold the snapshot for as long as the head is one of them.
if id ~= '' then redis.call('HINCRBY', KEYS[3], id, 1) end
redis.call('HSET', KEYS[1], 'head', id)
if redis.call('HINCRBY', KEYS[3], head, -1) < 1 then
  redis.call('SADD', KEYS[4], head)
  redis.call('HDEL', KEYS[3], head)
end
return {'ok', ''}
