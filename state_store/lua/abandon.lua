-- Make sure that a commit which never finished cannot finish any more. What a snapshot's record
-- names as its pin stays: it may have finished, or was broken off half way; then the snapshot dies
-- like any other that nothing refers to, and takes its pins along.
-- KEYS: journals, aborted, snapshot, refs, dead     ARGV: pin id, snapshot id
-- Returns 1 if the pins are to be removed.
-- A full store lets a script add only after it has removed.
redis.call('PERSIST', KEYS[1])
if redis.call('HGET', KEYS[3], 'pin') == ARGV[1] then
  local refs = redis.call('HGET', KEYS[4], ARGV[2])
  if not refs or (tonumber(refs) or 1) < 1 then redis.call('SADD', KEYS[5], ARGV[2]) end
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
  return 0
end
local journal = redis.call('HGET', KEYS[1], ARGV[1])
if journal then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], journal)
end
return 1
