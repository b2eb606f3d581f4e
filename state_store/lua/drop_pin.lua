-- Take a pin of no commit off an object. What the archive has of it is condemned with the last one.
-- KEYS: pins, cold, condemned     ARGV: pin id
local held = redis.call('SISMEMBER', KEYS[1], ARGV[1])
if held == 1 and redis.call('SCARD', KEYS[1]) == 1 then
  local generation = redis.call('GET', KEYS[2])
  if generation then
    redis.call('DEL', KEYS[2])
    redis.call('SADD', KEYS[3], generation .. '@' .. redis.call('TIME')[1])
  end
end
redis.call('SREM', KEYS[1], ARGV[1])
return 1
