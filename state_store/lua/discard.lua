-- Make sure that a generation which did not become an object's cold one never will.
-- KEYS: cold, condemned     ARGV: generation
-- Returns 1 if its bytes may be deleted from the archive.
if redis.call('GET', KEYS[1]) == ARGV[1] then return 0 end
redis.call('PERSIST', KEYS[2]) -- a full store lets a script add only after it has removed
redis.call('SADD', KEYS[2], ARGV[1])
return 1
