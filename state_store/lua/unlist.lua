-- Take a name off a list and a second one, unless it was listed in the first again or just now: a
-- session or snapshot off a label's list and its sessions by creation, a tenant off one list twice.
-- KEYS: list, second list
-- ARGV: id, when it was listed as it was seen, seconds that it must have been there
local time = redis.call('TIME')
local now = tonumber(time[1] .. '.' .. string.format('%06d', time[2]))
local listed = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or ARGV[2])
if listed == tonumber(ARGV[2]) and now - listed >= tonumber(ARGV[3]) then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return 1
