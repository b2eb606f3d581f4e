-- Uses: cold_files
-- Let archived contents go whose time is over and that nothing holds.
-- KEYS: held files, cold files, condemned files
-- Returns how many.
local now, gone = tonumber(redis.call('TIME')[1]), 0
local cold = redis.call('HGETALL', KEYS[2])
for i = 1, #cold, 2 do
  local ends = tonumber(string.match(cold[i + 1], ' %x+ (%d+)$'))
  if ends and ends <= now and redis.call('HEXISTS', KEYS[1], 'blob:' .. cold[i]) == 0 then
    condemn_cold(KEYS[2], KEYS[3], cold[i], cold[i + 1])
    gone = gone + 1
  end
end
return gone
