-- Where an object's bytes are. Reading nothing, it leaves the object as idle as it was.
-- KEYS: pins, cold, object of each rank
-- Returns {1 if held, generation or '', ranks whose bytes are in memory, seconds since the last
-- use of any of them}; -1 if nothing is in memory or the server does not keep idle times.
local present, idle = 0, -1
for i = 3, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    present = present + 1
    local seconds = redis.pcall('OBJECT', 'IDLETIME', KEYS[i])
    if type(seconds) == 'number' and (idle < 0 or seconds < idle) then idle = seconds end
  end
end
return {redis.call('EXISTS', KEYS[1]), redis.call('GET', KEYS[2]) or '', present, idle}
