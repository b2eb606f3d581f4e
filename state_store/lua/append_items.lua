-- Append values to a list, once.
-- KEYS: list, mark of this call
-- ARGV: milliseconds that the list lives after this, values
if not redis.call('SET', KEYS[2], '', 'NX', 'EX', 60) then return end
for i = 2, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
