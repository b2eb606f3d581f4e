-- Take a session off the list of those with bytes in memory, unless it was used meanwhile.
-- KEYS: sessions by last use     ARGV: session id, its last use as it was seen
local used = redis.call('ZSCORE', KEYS[1], ARGV[1])
if used and tonumber(used) == tonumber(ARGV[2]) then redis.call('ZREM', KEYS[1], ARGV[1]) end
return 1
