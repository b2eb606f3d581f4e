-- Write the labels of a session or snapshot that is there, unless somebody has since they were read.
-- KEYS: session or snapshot     ARGV: labels, how often they had been written when they were read
-- Returns 1; 0 if it is gone, -1 if they are not what was read.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local labels, written = unpack(redis.call('HMGET', KEYS[1], 'labels', 'labelled'))
written = tonumber(written or '0')
if labels == ARGV[1] and written == ARGV[2] + 1 then return 1 end -- sent again after a lost reply
if written ~= tonumber(ARGV[2]) then return -1 end
redis.call('HSET', KEYS[1], 'labels', ARGV[1], 'labelled', written + 1)
return 1
