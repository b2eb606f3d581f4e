-- What is known of an encrypted object's seed, read as one.
-- KEYS: seed, object of each rank
-- Returns {seconds left to the seed (-1 for ever, -2 gone), {1 if the rank's bytes are not in memory
-- or were encrypted under it}}. It makes the object look no more used than `audit` does.
local seed, fits = redis.call('GETRANGE', KEYS[1], 0, 3), {}
for i = 2, #KEYS do
  local key_id = redis.call('GETRANGE', KEYS[i], 108, 111)
  fits[i - 1] = (key_id == '' or key_id == seed) and 1 or 0
end
return {redis.call('TTL', KEYS[1]), fits}
