-- Delete a value that is kept with a session.
-- KEYS: attachments     ARGV: name
-- Returns the bytes of all that is left, see attach.lua; or -1 if there was no such value.
local length = redis.call('HSTRLEN', KEYS[1], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return -1 end
local bytes = redis.call('HINCRBY', KEYS[1], '', -length - #ARGV[1])
if redis.call('HLEN', KEYS[1]) == 1 then redis.call('DEL', KEYS[1]) end
return bytes
