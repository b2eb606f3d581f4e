-- Uses: quota
-- Take the last value of a list away, once.
-- KEYS: list, mark of this call, usage
-- ARGV: the list's name in the usage
-- Returns the value, the same one if the call is made again.
local before = redis.call('GET', KEYS[2])
if before then return before end
local taken = redis.call('RPOP', KEYS[1])
if not taken then return taken end
redis.call('SET', KEYS[2], taken, 'EX', 60)
local bytes = counted(redis.call('HGET', KEYS[3], ARGV[1]))
if redis.call('EXISTS', KEYS[1]) == 0 then
  uncount(KEYS[3], ARGV[1])
else
  count(KEYS[3], ARGV[1], string.format('0:%d:0', math.max(0, bytes - #taken)))
end
return taken
