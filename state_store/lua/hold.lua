-- Hold an object for a snapshot that lives and has lost its pin, if all ranks have it or the
-- archive does.
-- KEYS: pins, cold, seed, object of each rank     ARGV: pin id
if redis.call('EXISTS', KEYS[2]) == 0 then
  for i = 4, #KEYS do
    if redis.call('EXISTS', KEYS[i]) == 0 then return 0 end
  end
end
redis.call('SADD', KEYS[1], ARGV[1])
for i = 3, #KEYS do redis.call('PERSIST', KEYS[i]) end
return 1
