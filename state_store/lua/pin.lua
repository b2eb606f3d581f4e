-- Hold an object on all ranks for a commit, if all ranks have it.
-- KEYS: pins, object of each rank     ARGV: pin id
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then return 0 end
end
redis.call('SADD', KEYS[1], ARGV[1])
for i = 2, #KEYS do redis.call('PERSIST', KEYS[i]) end
return 1
