-- Put a value in place of the one that was read, if nobody has done so meanwhile.
-- KEYS: key     ARGV: value that was read, '' for none; new value
local there = redis.call('GET', KEYS[1]) or ''
if there ~= ARGV[1] and there ~= ARGV[2] then return 0 end -- the same: sent again after a lost reply
-- A server without memory refuses a script's first write if that may add. One that takes no more
-- than before goes behind a write that does not.
if #ARGV[2] <= #there then redis.call('PERSIST', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[2])
return 1
