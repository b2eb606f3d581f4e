-- Tell of a session to who follows it. One that is gone is told of once more at most.
-- KEYS: session, feed
-- ARGV: value, entries kept, milliseconds kept, '1' if it is the last, mark of this post, how many of
--       the session's are sent with it from this one on
local latest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', ARGV[6])
for _, entry in ipairs(latest) do
  if entry[2][6] == ARGV[5] then return entry[1] end -- all are sent again after a lost reply
end
local last = latest[1]
if ARGV[4] == '1' then
  redis.call('DEL', KEYS[2])
  last = nil
elseif redis.call('EXISTS', KEYS[1]) == 0 then
  return nil
end
local number = last and tonumber(last[2][4]) + 1 or 1
local post = {'v', ARGV[1], 'n', number, 'c', ARGV[5]}
local id = redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[2], '*', unpack(post))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return id
