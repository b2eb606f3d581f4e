-- Let go of an object; with no pin left it expires like one that was never committed.
-- KEYS: pins, object of each rank     ARGV: pin id, seconds
redis.call('SREM', KEYS[1], ARGV[1])
if redis.call('SCARD', KEYS[1]) == 0 then
  for i = 2, #KEYS do redis.call('EXPIRE', KEYS[i], ARGV[2], 'NX') end
end
return 1
