-- A lease is stored as <fence>:<nonce>:<owner>.
-- KEYS: session, lease, fence     ARGV: owner, milliseconds, nonce of this call
-- Returns {'ok', fence, body, head and labels of the session} or {reason, detail}.
local body, head, labels = unpack(redis.call('HMGET', KEYS[1], 'body', 'head', 'labels'))
if not body then return {'no_session', ''} end
local lease = redis.call('GET', KEYS[2])
if lease then
  local fence, nonce, owner = string.match(lease, '^(%d+):(%x+):(.*)$')
  if nonce == ARGV[3] then return {'ok', fence, body, head, labels} end -- sent again after a lost reply
  return {'held', owner}
end
local fence = redis.call('INCR', KEYS[3])
redis.call('SET', KEYS[2], fence .. ':' .. ARGV[3] .. ':' .. ARGV[1], 'PX', ARGV[2])
return {'ok', tostring(fence), body, head, labels}
