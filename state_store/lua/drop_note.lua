-- Uses: quota
-- Delete a note, unless it begins otherwise.
-- KEYS: note, the tenant's usage, quota and list of notes, and of one on a session the list of its notes
-- ARGV: beginning, its name
local value = redis.call('GET', KEYS[1])
if value and string.sub(value, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
if KEYS[5] then redis.call('ZREM', KEYS[5], ARGV[2]) end
count_note(KEYS[2], KEYS[3], KEYS[4], KEYS[1], ARGV[2], 0, 0)
redis.call('DEL', KEYS[1])
return 1
