-- Uses: quota
-- Count a tenant's notes anew: some of them may have expired.
-- KEYS: usage, quota, list of notes
-- Returns the bytes of all of them.
local time = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', time[1] * 1000 + math.floor(time[2] / 1000))
local bytes = 0
for _, one in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  bytes = bytes + string.match(one, '^%d+')
end
if bytes == 0 then
  uncount(KEYS[1], 'notes')
elseif redis.call('EXISTS', KEYS[2]) == 1 or redis.call('HEXISTS', KEYS[1], 'notes') == 1 then
  count(KEYS[1], 'notes', string.format('0:%.0f:0', bytes))
end
return bytes
