-- List a session or snapshot under labels, as of now.
-- KEYS: sessions of the tenant, and of each label: its list, its sessions by creation
-- ARGV: id
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
local created = redis.call('ZSCORE', KEYS[1], ARGV[1]) -- none of a snapshot
for i = 2, #KEYS, 2 do
  redis.call('ZADD', KEYS[i], now, ARGV[1])
  if created then redis.call('ZADD', KEYS[i + 1], created, ARGV[1]) end
end
return 1
