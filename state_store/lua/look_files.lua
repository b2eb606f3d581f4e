-- Where contents are.
-- KEYS: held files, cold files, blobs     ARGV: name of each blob
-- Returns of each {1 if a set holds it, what the archive has it as or '', bytes in memory}.
local found = {}
for i, name in ipairs(ARGV) do
  found[i] = {redis.call('HEXISTS', KEYS[1], 'blob:' .. name),
    redis.call('HGET', KEYS[2], name) or '', redis.call('STRLEN', KEYS[i + 2])}
end
return found
