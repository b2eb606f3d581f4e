-- Uses: cold_files
-- Forget that the archive has a content, if it is still known as it was read.
-- KEYS: cold files, condemned files     ARGV: name of the content, what it was known as
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
condemn_cold(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
return 1
