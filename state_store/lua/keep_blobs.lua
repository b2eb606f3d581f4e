-- Keep contents for a while, unless they are there; those of a session that is gone are not kept.
-- KEYS: session, blobs     ARGV: milliseconds, content of each blob
-- Returns 1, or 0 if there is no such session.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for i = 2, #KEYS do
  if not redis.call('SET', KEYS[i], ARGV[i], 'NX', 'PX', ARGV[1]) then
    local left = redis.call('PTTL', KEYS[i])
    if left >= 0 and left < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
  end
end
return 1
