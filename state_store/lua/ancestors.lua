-- Walk from a snapshot towards the root, at most ARGV[3] steps.
-- KEYS: first snapshot     ARGV: key prefix of snapshots (same slot), first snapshot id, steps
-- Returns {id, body, id, body, ...}; the caller goes on from the last one's parent.
local found, id = {}, ARGV[2]
for _ = 1, tonumber(ARGV[3]) do
  local record = redis.call('HMGET', ARGV[1] .. id, 'body', 'parent')
  if not record[1] then break end
  found[#found + 1] = id
  found[#found + 1] = record[1]
  if record[2] == '' then break end
  id = record[2]
end
return found
