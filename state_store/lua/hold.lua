-- Hold an object for a snapshot that lives and has lost its pin, if all ranks have it or the
-- archive does, and, if it is encrypted, its seed is there and it was encrypted under that one.
-- KEYS: pins, cold, seed, object of each rank     ARGV: pin id, 1 if encrypted
local archived = redis.call('EXISTS', KEYS[2]) == 1
local encrypted = ARGV[2] == '1'
local seed = encrypted and redis.call('GETRANGE', KEYS[3], 0, 3)
if seed == '' then return 0 end
for i = 4, #KEYS do
  local readable = redis.call('EXISTS', KEYS[i]) == 1
    and (not encrypted or redis.call('GETRANGE', KEYS[i], 108, 111) == seed)
  if not readable and not archived then return 0 end
end
redis.call('SADD', KEYS[1], ARGV[1])
for i = encrypted and 3 or 4, #KEYS do redis.call('PERSIST', KEYS[i]) end
return 1
