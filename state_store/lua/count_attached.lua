-- Count what is kept with a lineage's sessions anew: some of it may have expired; see attach.lua.
-- KEYS: sessions, usage     ARGV: key prefix of attachments (same slot)
-- Returns the bytes of all of it.
local sizes, total = {}, 0
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local place = ARGV[1] .. id
  if redis.call('EXISTS', place) == 1 then
    local bytes = tonumber(redis.call('HGET', KEYS[2], 'attached:' .. id) or '')
    if not bytes then
      bytes = 0
      for _, name in ipairs(redis.call('HKEYS', place)) do
        bytes = bytes + #name + redis.call('HSTRLEN', place, name)
      end
    end
    sizes[id], total = bytes, total + bytes
  end
end
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  local id = string.match(field, '^attached:(.*)$')
  if id and not sizes[id] then redis.call('HDEL', KEYS[2], field) end
end
for id, bytes in pairs(sizes) do redis.call('HSET', KEYS[2], 'attached:' .. id, bytes) end
if total ~= tonumber(redis.call('HGET', KEYS[2], 'attached') or '0') then
  redis.call('HSET', KEYS[2], 'attached', total)
  redis.call('HINCRBY', KEYS[2], 'version', 1)
end
return total
