-- Make sure that a commit which never finished cannot finish any more.
-- KEYS: journals, aborted     ARGV: pin id
local journal = redis.call('HGET', KEYS[1], ARGV[1])
if journal then
  -- The removal comes first: a full store lets a script add only after it has removed.
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], journal)
end
return journal
