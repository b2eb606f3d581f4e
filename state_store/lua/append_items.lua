-- Uses: quota
-- Append values to a list, once.
-- KEYS: list, mark of this call, usage, the tenant's record
-- ARGV: the record as the writer knows it, milliseconds that the list lives after this, its name in
-- the usage, values
-- Returns 0 if the tenant is another, else 1.
if redis.call('GET', KEYS[4]) ~= ARGV[1] then return 0 end
if not redis.call('SET', KEYS[2], '', 'NX', 'EX', 60) then return 1 end
local bytes = redis.call('EXISTS', KEYS[1]) == 0 and 0 or counted(redis.call('HGET', KEYS[3], ARGV[3]))
for i = 4, #ARGV do
  redis.call('RPUSH', KEYS[1], ARGV[i])
  bytes = bytes + #ARGV[i]
end
count(KEYS[3], ARGV[3], string.format('0:%d:0', bytes))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
