-- Count anew, in a lineage's totals, its files that live for a while and that no snapshot holds.
-- KEYS: loose files, held files, usage     ARGV: some of them, as the hash has them
-- Returns the bytes of those some.
local now = tonumber(redis.call('TIME')[1])
local some, total, of_some = {}, 0, 0
for _, what in ipairs(ARGV) do some[what] = true end
local loose = redis.call('HGETALL', KEYS[1])
for i = 1, #loose, 2 do
  local ends, bytes = string.match(loose[i + 1], '^(%d+):(%d+)$')
  if tonumber(ends) <= now or redis.call('HEXISTS', KEYS[2], loose[i]) == 1 then
    redis.call('HDEL', KEYS[1], loose[i])
  else
    total = total + bytes
    if some[loose[i]] then of_some = of_some + bytes end
  end
end
if total ~= tonumber(redis.call('HGET', KEYS[3], 'loose') or '0') then
  redis.call('HSET', KEYS[3], 'loose', total)
  redis.call('HINCRBY', KEYS[3], 'version', 1)
end
return of_some
