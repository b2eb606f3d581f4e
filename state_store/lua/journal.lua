-- Note that a commit begins now, by the server's clock.
-- KEYS: journals     ARGV: pin id, packed bytes of what it names
local time = redis.call('TIME')
local now = cmsgpack.pack(tonumber(time[1] .. '.' .. string.format('%06d', time[2])))
-- A map of two, put together by hand: cmsgpack would pack the bytes as text.
redis.call('HSET', KEYS[1], ARGV[1], '\130\162at' .. now .. '\168snapshot' .. ARGV[2])
return 1
