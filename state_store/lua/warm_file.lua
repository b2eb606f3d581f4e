-- Uses: cold_files
-- Have a content in memory again, and let the archive's go.
-- KEYS: held files, cold files, condemned files, blob     ARGV: its name, generation, content
-- Returns 'ok', or why everything stays as it is.
local name, generation, content = unpack(ARGV)
local cold = redis.call('HGET', KEYS[2], name)
if not cold or string.match(cold, '^%S+') ~= generation then return 'moved' end
if redis.call('HEXISTS', KEYS[1], 'blob:' .. name) == 0 then return 'unheld' end
redis.call('SET', KEYS[4], content) -- first: a full store refuses it
condemn_cold(KEYS[2], KEYS[3], name, cold)
return 'ok'
