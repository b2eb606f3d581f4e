-- Let a content in memory go, now that the archive has it.
-- KEYS: held files, cold files, condemned files, blob
-- ARGV: its name, generation, when the move began, seconds that a move may take, bytes and digest of
--       what was archived
-- Returns 'ok', or why everything stays as it is.
local name, generation, started, limit, bytes, digest = unpack(ARGV)
local cold = redis.call('HGET', KEYS[2], name)
if cold then -- or it is sent again after a lost reply
  return string.match(cold, '^%S+') == generation and 'ok' or 'cold'
end
if redis.call('HEXISTS', KEYS[1], 'blob:' .. name) == 0 then return 'unheld' end
-- What is older may have been collected as an orphan already.
if redis.call('TIME')[1] - started >= tonumber(limit) then return 'late' end
-- Sent again after a lost reply, and brought back or let go meanwhile.
if redis.call('HEXISTS', KEYS[3], name .. ' ' .. generation) == 1 then return 'condemned' end
if redis.call('STRLEN', KEYS[4]) ~= tonumber(bytes) then return 'changed' end
redis.call('HDEL', KEYS[2], name) -- a full store lets a script add only after it has removed
redis.call('HSET', KEYS[2], name, generation .. ' ' .. bytes .. ' ' .. digest)
redis.call('DEL', KEYS[4])
return 'ok'
