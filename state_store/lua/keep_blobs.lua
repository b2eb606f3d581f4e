-- Uses: cold_files
-- Keep contents for a while, unless they are there; those of a session that is gone are not kept.
-- What snapshots hold had been lost, if it is new here, and is kept for good; what the archive has
-- is here again, also if the archive has lost it.
-- KEYS: session, held files, wanted files, loose files, cold files, condemned files, blobs
-- ARGV: milliseconds; 1 if what is let go of goes at once, unless it is noted as wanted, or else 0;
--       content of each blob
-- Returns 1, or 0 if there is no such session.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local lives_until = redis.call('TIME')[1] + ARGV[1] / 1000
for i = 7, #KEYS do
  redis.call('SET', KEYS[i], ARGV[i - 4], 'NX', 'PX', ARGV[1])
  local left = redis.call('PTTL', KEYS[i])
  local name = string.match(KEYS[i], '[^:]+$')
  local what, cold = 'blob:' .. name, redis.call('HGET', KEYS[5], name)
  if cold then condemn_cold(KEYS[5], KEYS[6], name, cold) end
  if redis.call('HEXISTS', KEYS[2], what) == 1 then
    redis.call('PERSIST', KEYS[i])
    if ARGV[2] == '1' then redis.call('HSET', KEYS[3], what, lives_until) end
  elseif left >= 0 then
    if left < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
    redis.call('HSET', KEYS[4], what, lives_until .. ':' .. redis.call('STRLEN', KEYS[i]))
  end
end
redis.call('PEXPIRE', KEYS[3], ARGV[1])
redis.call('PEXPIRE', KEYS[4], ARGV[1])
return 1
