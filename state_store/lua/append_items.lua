-- Append values to a list, once.
-- KEYS: list, mark of this call, usage
-- ARGV: milliseconds that the list lives after this, its name in the usage, values
if not redis.call('SET', KEYS[2], '', 'NX', 'EX', 60) then return end
local bytes = 0
if redis.call('EXISTS', KEYS[1]) == 1 then
  bytes = string.match(redis.call('HGET', KEYS[3], ARGV[2]) or '', '^0:(%d+):0$') or 0
end
for i = 3, #ARGV do
  redis.call('RPUSH', KEYS[1], ARGV[i])
  bytes = bytes + #ARGV[i]
end
redis.call('HSET', KEYS[3], ARGV[2], string.format('0:%d:0', bytes))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
