-- Keep contents for a while, unless they are there; those of a session that is gone are not kept.
-- What snapshots hold had been lost, if it is new here, and is kept for good.
-- KEYS: session, held files, blobs     ARGV: milliseconds, content of each blob
-- Returns 1, or 0 if there is no such session.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for i = 3, #KEYS do
  redis.call('SET', KEYS[i], ARGV[i - 1], 'NX', 'PX', ARGV[1])
  local left = redis.call('PTTL', KEYS[i])
  if redis.call('HEXISTS', KEYS[2], 'blob:' .. string.match(KEYS[i], '[^:]+$')) == 1 then
    redis.call('PERSIST', KEYS[i])
  elseif left >= 0 and left < tonumber(ARGV[1]) then
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
  end
end
return 1
