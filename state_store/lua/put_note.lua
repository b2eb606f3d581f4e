-- Put a note of a tenant who is as the writer knows it.
-- KEYS: note, the tenant's record
-- ARGV: the record as the writer knows it, value, milliseconds that it lives, 'NX' or ''
-- Returns {0} if the tenant is another, {1} when it is put, {1, note} if one is there already.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return {0} end
if ARGV[4] == 'NX' then
  local there = redis.call('GET', KEYS[1])
  if there then return {1, there} end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return {1}
