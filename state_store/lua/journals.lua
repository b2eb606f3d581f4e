-- KEYS: journals, aborted
-- Returns the time by the server's clock, pin ids with their journals, pin ids of aborted commits.
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
return {now, redis.call('HGETALL', KEYS[1]), redis.call('HKEYS', KEYS[2])}
