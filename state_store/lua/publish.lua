-- Tell of a session to who follows it. One that is gone is told of once more at most.
-- KEYS: session, feed     ARGV: value, entries kept, milliseconds kept, '1' if it is the last
if ARGV[4] == '1' then
  redis.call('DEL', KEYS[2])
elseif redis.call('EXISTS', KEYS[1]) == 0 then
  return nil
end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local number = last and tonumber(last[2][4]) + 1 or 1
local id = redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[2], '*', 'v', ARGV[1], 'n', number)
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return id
