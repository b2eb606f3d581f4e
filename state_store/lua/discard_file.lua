-- Make sure that a generation which did not become a content's cold one never will.
-- KEYS: cold files, condemned files     ARGV: name of the content, generation
-- Returns 1 if its bytes may be deleted from the archive.
local cold = redis.call('HGET', KEYS[1], ARGV[1])
if cold and string.match(cold, '^%S+') == ARGV[2] then return 0 end
redis.call('PERSIST', KEYS[2]) -- a full store lets a script add only after it has removed
redis.call('HSET', KEYS[2], ARGV[1] .. ' ' .. ARGV[2], redis.call('TIME')[1])
return 1
