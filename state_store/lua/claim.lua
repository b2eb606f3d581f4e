-- Be the one sweeper of a session, or give it up.
-- KEYS: claim     ARGV: nonce, milliseconds (0 gives it up)
if ARGV[2] == '0' then
  if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
  return 1
end
redis.call('PEXPIRE', KEYS[1], ARGV[2], 'NX') -- a full store lets a script add only after it has removed
redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
return redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0
