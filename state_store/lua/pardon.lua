-- Take a generation off those to be deleted, if it is the object's own; or what is none at all.
-- KEYS: cold, condemned     ARGV: member
local generation = string.match(ARGV[1], '^[^@]*')
local named = string.match(generation, '^%x+%-%d+%-%d+%-%x+$')
local dated = string.match(ARGV[1], '^[^@]*$') or string.match(ARGV[1], '^[^@]*@%d+$')
if redis.call('GET', KEYS[1]) == generation or not named or not dated then
  redis.call('SREM', KEYS[2], ARGV[1])
end
return 1
