-- The sessions of a lineage and the ids of the snapshots that are held, read as one.
-- KEYS: sessions, refs     ARGV: key prefix of sessions (same slot)
-- Returns {{body, head, labels} of each session, {snapshot id, ...}}.
local sessions = {}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local record = redis.call('HMGET', ARGV[1] .. id, 'body', 'head', 'labels')
  if record[1] then sessions[#sessions + 1] = record end
end
return {sessions, redis.call('HKEYS', KEYS[2])}
