-- List a session or snapshot under labels, as of now.
-- KEYS: labels of one tenant     ARGV: id
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
for _, label in ipairs(KEYS) do redis.call('ZADD', label, now, ARGV[1]) end
return 1
