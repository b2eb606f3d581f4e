-- Take the last value of a list away, once.
-- KEYS: list, mark of this call
-- Returns the value, the same one if the call is made again.
local taken = redis.call('GET', KEYS[2]) or redis.call('RPOP', KEYS[1])
if taken then redis.call('SET', KEYS[2], taken, 'EX', 60) end
return taken
