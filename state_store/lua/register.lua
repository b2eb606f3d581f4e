-- Keep an engine's record for a while, unless another start of an engine has the name and lives.
-- KEYS: record     ARGV: boot id, record, ms to live
local held = redis.call('GET', KEYS[1])
if held and cmsgpack.unpack(held).boot_id ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
