-- Take an engine's record away, if it is still this start's.
-- KEYS: record     ARGV: boot id
local held = redis.call('GET', KEYS[1])
if held and cmsgpack.unpack(held).boot_id == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
