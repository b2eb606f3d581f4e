-- Make a snapshot the head of a session, if the caller may.
-- KEYS: session, lease, snapshot, tokens, refs, dead, journals, aborted, usage
-- ARGV: lease token, expected parent, snapshot id, pin id, body, tokens, bytes of its objects and
--       number of its tokens, for quotas
-- Returns {'ok', pin id and body that the snapshot keeps, pin id to remove or ''} or
-- {reason, detail}.
local token, parent, id, pin, body, tokens, size, count = unpack(ARGV)
local head = redis.call('HGET', KEYS[1], 'head')
if not head then return {'no_session', ''} end
local lease = redis.call('GET', KEYS[2])
if not lease or string.match(lease, '^%d+:%x+') ~= token then
  return {'lease_lost', lease and string.match(lease, '^%d+:%x+:(.*)$') or ''}
end
if head == id then
  local kept = redis.call('HMGET', KEYS[3], 'pin', 'body')
  return {'ok', kept[1], kept[2], ''}
end
if head ~= parent then return {'head_moved', head} end
if redis.call('HEXISTS', KEYS[7], pin) == 0 then return {'too_late', ''} end
local superseded = ''
if redis.call('EXISTS', KEYS[3]) == 0 then
  redis.call('HSET', KEYS[3], 'body', body, 'parent', parent, 'pin', pin)
  redis.call('SET', KEYS[4], tokens)
  redis.call('HSET', KEYS[3], 'bytes', size, 'count', count)
  redis.call('HINCRBY', KEYS[9], 'bytes', size)
  redis.call('HINCRBY', KEYS[9], 'tokens', count)
  redis.call('HINCRBY', KEYS[9], 'version', 1)
  if parent ~= '' then redis.call('HINCRBY', KEYS[5], parent, 1) end
elseif redis.call('SREM', KEYS[6], id) == 1 then
  -- Nothing held it and its pins are being removed: it lives on by the new ones. Whoever removes
  -- the old ones may have died, so they are recorded like those of an abandoned commit.
  superseded = redis.call('HGET', KEYS[3], 'pin')
  redis.call('HSET', KEYS[8], superseded, redis.call('HGET', KEYS[7], pin))
  redis.call('HSET', KEYS[3], 'pin', pin)
end
redis.call('HINCRBY', KEYS[5], id, 1)
if parent ~= '' then redis.call('HINCRBY', KEYS[5], parent, -1) end
redis.call('HSET', KEYS[1], 'head', id)
local kept = redis.call('HMGET', KEYS[3], 'pin', 'body')
if kept[1] == pin then redis.call('HDEL', KEYS[7], pin) end
return {'ok', kept[1], kept[2], superseded}
