-- Hold an object's bytes in memory again, and let the archive's go.
-- KEYS: pins, cold, condemned, object of each rank
-- ARGV: generation, first bytes of what was verified of each rank (its header)
-- Returns 'ok', or why everything stays as it is.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 'moved' end
for i = 4, #KEYS do
  if redis.call('GETRANGE', KEYS[i], 0, #ARGV[i - 2] - 1) ~= ARGV[i - 2] then return 'changed' end
end
redis.call('DEL', KEYS[2]) -- first: a full store lets a script add only after it has removed
redis.call('SADD', KEYS[3], ARGV[1] .. '@' .. redis.call('TIME')[1])
if redis.call('EXISTS', KEYS[1]) == 1 then
  for i = 4, #KEYS do redis.call('PERSIST', KEYS[i]) end
end
return 'ok'
