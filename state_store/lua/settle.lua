-- Let an object's bytes live as long as it is held, and no longer.
-- KEYS: pins, object     ARGV: 'hold' or 'let go', seconds
if redis.call('EXISTS', KEYS[1]) == 1 then
  if ARGV[1] == 'hold' then redis.call('PERSIST', KEYS[2]) end
elseif ARGV[1] == 'let go' then
  redis.call('EXPIRE', KEYS[2], ARGV[2], 'NX')
end
return 1
