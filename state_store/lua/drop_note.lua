-- Delete a note on a session, unless it begins otherwise.
-- KEYS: note, list of the session's notes     ARGV: beginning, its name
local value = redis.call('GET', KEYS[1])
if value and string.sub(value, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
return 1
