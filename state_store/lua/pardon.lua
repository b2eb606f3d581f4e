-- Take a generation off those to be deleted, if it is the object's own; or what is none at all.
-- A key that is no set says nothing: what the archive has of the object is found as nobody's.
-- KEYS: cold, condemned     ARGV: member
local size = redis.pcall('SCARD', KEYS[2])
if type(size) == 'table' and size.err then
  redis.call('DEL', KEYS[2])
  return 1
end
local generation = string.match(ARGV[1], '^[^@]*')
local named = string.match(generation, '^%x+%-%d+%-%d+%-%x+$')
local dated = string.match(ARGV[1], '^[^@]*$') or string.match(ARGV[1], '^[^@]*@%d+$')
if redis.call('GET', KEYS[1]) == generation or not named or not dated then
  redis.call('SREM', KEYS[2], ARGV[1])
end
return 1
