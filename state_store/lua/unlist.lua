-- Take a session or snapshot off a label, unless it was listed there again or just now.
-- KEYS: label: its list, its sessions by creation
-- ARGV: id, when it was listed as it was seen, seconds that it must have been there
local time = redis.call('TIME')
local now = tonumber(time[1] .. '.' .. string.format('%06d', time[2]))
local listed = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or ARGV[2])
if listed == tonumber(ARGV[2]) and now - listed >= tonumber(ARGV[3]) then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return 1
