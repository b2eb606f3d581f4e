-- What is known of one object, read as one.
-- KEYS: pins, cold, object of each rank     ARGV: pin id, or nothing for all pins
-- Returns {1 if the pin holds it (all its pins if none was named), generation or '', seconds left
-- to each rank's bytes (-1 for ever, -2 gone)}. None of it makes the object look used.
local left = {}
for i = 3, #KEYS do left[#left + 1] = redis.call('TTL', KEYS[i]) end
local pins = ARGV[1] and redis.call('SISMEMBER', KEYS[1], ARGV[1]) or redis.call('SMEMBERS', KEYS[1])
return {pins, redis.call('GET', KEYS[2]) or '', left}
