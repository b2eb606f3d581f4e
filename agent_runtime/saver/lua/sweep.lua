-- Remove values and items that no checkpoint needed when `puts` was read.
-- KEYS: values, items, puts     ARGV: puts, count of value fields, these, digests
-- Returns 0, and does nothing, if a checkpoint has been put since.
if (redis.call('GET', KEYS[3]) or '') ~= ARGV[1] then return 0 end
local last = 2 + tonumber(ARGV[2])
for i = 3, last do redis.call('HDEL', KEYS[1], ARGV[i]) end
for i = last + 1, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
return 1
