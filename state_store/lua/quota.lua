-- What a tenant may have and has; {} if it has no quota.
-- KEYS: quota, usage, sessions
-- Returns {bytes, tokens and sessions that it may have ('' for any), those that it has}.
local quota = redis.call('HMGET', KEYS[1], 'bytes', 'tokens', 'sessions')
if not (quota[1] or quota[2] or quota[3]) then return {} end
local bytes, tokens = 0, 0
for _, entry in ipairs(redis.call('HVALS', KEYS[2])) do
  local some, more = string.match(entry, '^%d+:(%d+):(%d+)$')
  if some then bytes, tokens = bytes + some, tokens + more end
end
return {quota[1] or '', quota[2] or '', quota[3] or '', bytes, tokens,
  redis.call('ZCARD', KEYS[3])}
