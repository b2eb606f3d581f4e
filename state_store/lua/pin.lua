-- Hold an object on all ranks for a commit, if all ranks have it or the archive does.
-- KEYS: pins, cold, object of each rank     ARGV: pin id
if redis.call('EXISTS', KEYS[2]) == 0 then
  for i = 3, #KEYS do
    if redis.call('EXISTS', KEYS[i]) == 0 then return 0 end
  end
end
redis.call('SADD', KEYS[1], ARGV[1])
for i = 3, #KEYS do redis.call('PERSIST', KEYS[i]) end
return 1
