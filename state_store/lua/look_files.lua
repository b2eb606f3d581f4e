-- Where contents are.
-- KEYS: held files, cold files, blobs     ARGV: name of each blob
-- Returns of each {1 if a set holds it, what the archive has it as or '', bytes in memory or -1}.
local found = {}
for i, name in ipairs(ARGV) do
  local size = redis.call('STRLEN', KEYS[i + 2])
  if size == 0 and redis.call('EXISTS', KEYS[i + 2]) == 0 then size = -1 end
  found[i] = {redis.call('HEXISTS', KEYS[1], 'blob:' .. name),
    redis.call('HGET', KEYS[2], name) or '', size}
end
return found
