-- Uses: quota
-- Write a lineage's totals among its tenant's, unless newer ones are there already.
-- KEYS: usage, quota, reserved
-- ARGV: lineage, version ('' if the lineage is gone), bytes, tokens, id of the room that was held for
--       what is in them now, or ''
-- An entry is gone:<when> for as long as an old total that somebody has read may still be on its way.
redis.call('HDEL', KEYS[3], ARGV[5])
local entry = redis.call('HGET', KEYS[1], ARGV[1])
local gone = entry and string.match(entry, '^gone:(%d+)$')
if not entry and redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
local now = redis.call('TIME')[1]
if ARGV[2] == '' then
  if gone then
    if now - gone > 600 then redis.call('HDEL', KEYS[1], ARGV[1]) end
  else
    count(KEYS[1], ARGV[1], 'gone:' .. now)
  end
elseif not gone then
  local version = tonumber(entry and string.match(entry, '^%d+') or '-1')
  if version < tonumber(ARGV[2]) then
    count(KEYS[1], ARGV[1], ARGV[2] .. ':' .. ARGV[3] .. ':' .. ARGV[4])
  end
end
return 1
