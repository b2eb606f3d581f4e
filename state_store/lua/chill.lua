-- Let an object's bytes in memory go, now that the archive has them.
-- KEYS: pins, cold, condemned, object of each rank
-- ARGV: generation, when its move began, seconds that a move may take, first bytes of what was
--       archived of each rank (its header, and so its checksum); none for what is cold already
-- Returns 'ok', or why everything stays as it is.
local cold = redis.call('GET', KEYS[2])
if cold and cold ~= ARGV[1] then return 'cold' end
if not cold then
  if #ARGV < #KEYS then return 'warm' end -- it was cold, and was to be freed once more
  if redis.call('EXISTS', KEYS[1]) == 0 then return 'unpinned' end
  -- What is older may have been collected as an orphan already.
  if redis.call('TIME')[1] - ARGV[2] >= tonumber(ARGV[3]) then return 'late' end
  -- Sent again after a lost reply, and brought back or let go meanwhile.
  for _, condemned in ipairs(redis.call('SMEMBERS', KEYS[3])) do
    if string.sub(condemned, 1, #ARGV[1]) == ARGV[1] then return 'condemned' end
  end
  for i = 4, #KEYS do
    if redis.call('GETRANGE', KEYS[i], 0, #ARGV[i] - 1) ~= ARGV[i] then return 'changed' end
  end
  -- A full store lets a script add only after it has removed, if it were nothing.
  redis.call('DEL', KEYS[2])
  redis.call('SET', KEYS[2], ARGV[1])
end
redis.call('DEL', unpack(KEYS, 4))
return 'ok'
