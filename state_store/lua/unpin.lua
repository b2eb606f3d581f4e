-- Let go of an object. With no pin left it expires like one that was never committed, or is shredded
-- at once: deleted with its seed, without which no copy of it can be read. What the archive has of
-- it is condemned, so that no later commit takes hold of it.
-- KEYS: pins, cold, condemned, seed, object of each rank
-- ARGV: pin id, seconds, 1 to shred
local held = redis.call('SISMEMBER', KEYS[1], ARGV[1])
if redis.call('SCARD', KEYS[1]) == held then
  local generation = redis.call('GET', KEYS[2])
  if generation then
    redis.call('DEL', KEYS[2])
    redis.call('SADD', KEYS[3], generation .. '@' .. redis.call('TIME')[1])
  end
  if ARGV[3] == '0' then
    for i = 5, #KEYS do redis.call('EXPIRE', KEYS[i], ARGV[2], 'NX') end
    redis.call('EXPIRE', KEYS[4], 2 * ARGV[2], 'NX') -- it must not go before its object does
  elseif held == 1 then -- else sent again, and it must spare what somebody has stored anew
    redis.call('UNLINK', unpack(KEYS, 4))
  end
end
redis.call('SREM', KEYS[1], ARGV[1]) -- last, see bury.lua: the set may vanish with it
return 1
