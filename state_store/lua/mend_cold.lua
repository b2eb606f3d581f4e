-- Drop a cold key that is of no use, if it is still what it was.
-- KEYS: pins, cold, condemned
-- ARGV: 'cold-key' or 'cold-unheld', its value
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return 0 end
if ARGV[1] == 'cold-key' then
  -- Nothing can be found by it: what is in memory is all there is.
  redis.call('DEL', KEYS[2])
  return 1
end
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('DEL', KEYS[2]) -- first: a full store lets a script add only after it has removed
redis.call('SADD', KEYS[3], ARGV[2] .. '@' .. redis.call('TIME')[1])
return 1
