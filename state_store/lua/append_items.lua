-- Uses: quota
-- Append values to a list, once.
-- KEYS: list, mark of this call, usage
-- ARGV: milliseconds that the list lives after this, its name in the usage, values
if not redis.call('SET', KEYS[2], '', 'NX', 'EX', 60) then return end
local bytes = redis.call('EXISTS', KEYS[1]) == 0 and 0 or counted(redis.call('HGET', KEYS[3], ARGV[2]))
for i = 3, #ARGV do
  redis.call('RPUSH', KEYS[1], ARGV[i])
  bytes = bytes + #ARGV[i]
end
count(KEYS[3], ARGV[2], string.format('0:%d:0', bytes))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
