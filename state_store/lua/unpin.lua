-- Let go of an object; with no pin left it expires like one that was never committed, and what
-- the archive has of it is condemned, so that no later commit takes hold of it.
-- KEYS: pins, cold, condemned, object of each rank     ARGV: pin id, seconds
redis.call('SREM', KEYS[1], ARGV[1])
if redis.call('SCARD', KEYS[1]) > 0 then return 1 end
local generation = redis.call('GET', KEYS[2])
if generation then
  redis.call('DEL', KEYS[2])
  redis.call('SADD', KEYS[3], generation)
end
for i = 4, #KEYS do redis.call('EXPIRE', KEYS[i], ARGV[2], 'NX') end
return 1
