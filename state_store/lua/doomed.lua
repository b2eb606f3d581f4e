-- A dead snapshot with the pin it died with, read as one: a commit may revive it with another.
-- KEYS: dead     ARGV: key prefix of snapshots (same slot)
-- Returns {id, body, pin id}, or {} if none is dead.
local id = redis.call('SRANDMEMBER', KEYS[1])
while id do
  local record = redis.call('HMGET', ARGV[1] .. id, 'body', 'pin')
  if record[1] then return {id, record[1], record[2]} end
  redis.call('SREM', KEYS[1], id)
  id = redis.call('SRANDMEMBER', KEYS[1])
end
return {}
