-- Uses: cold_files
-- Remove a dead snapshot whose pins are gone, and let go of its parent.
-- KEYS: snapshot, tokens, refs, dead, usage, held files, tree; if it has files: wanted files, sessions,
--       cold files, condemned files, its set of files and the blobs of that: a server of a cluster that
--       lacks one of them, while their slot moves, then does nothing at all
-- ARGV: snapshot id, pin id that was removed, seconds that files live on which nothing holds any
--       more, 0 if they go at once but for those that a session still wants
-- Returns {'ok', its labels as they are stored}, or {'alive'}.
if redis.call('SISMEMBER', KEYS[4], ARGV[1]) == 0 then return {'alive'} end
if (redis.call('HGET', KEYS[1], 'pin') or '') ~= ARGV[2] then return {'alive'} end
local refs = redis.call('HGET', KEYS[3], ARGV[1])
if refs and (tonumber(refs) or 1) > 0 then -- see doomed.lua; repair pins its objects again
  redis.call('SREM', KEYS[4], ARGV[1])
  return {'alive'}
end
local fields = redis.call('HMGET', KEYS[1], 'parent', 'bytes', 'count', 'labels')
local parent, size, count, labels = unpack(fields)
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[7], ARGV[1])
local now = redis.call('TIME')[1]
local function let_go(kind, key)
  local name = string.match(key, '[^:]+$')
  local what, cold = kind .. name, kind == 'blob:' and redis.call('HGET', KEYS[10], name)
  if redis.call('HINCRBY', KEYS[6], what, -1) > 0 then return false end
  redis.call('HDEL', KEYS[6], what)
  local left = tonumber(ARGV[3])
  if left == 0 and redis.call('EXISTS', KEYS[9]) == 1 then
    left = (redis.call('HGET', KEYS[8], what) or now) - now
  end
  if cold and left > 0 then
    keep_cold(KEYS[10], name, cold, now + left)
  elseif cold then
    condemn_cold(KEYS[10], KEYS[11], name, cold)
  elseif left > 0 then
    redis.call('EXPIRE', key, left)
  else
    redis.call('UNLINK', key)
  end
  return true
end
if KEYS[12] and let_go('files:', KEYS[12]) then
  for i = 13, #KEYS do let_go('blob:', KEYS[i]) end
end
if size then
  redis.call('HINCRBY', KEYS[5], 'bytes', 0 - size) -- and not -size: Redis 7.0 refuses a -0
  redis.call('HINCRBY', KEYS[5], 'tokens', 0 - count)
  redis.call('HINCRBY', KEYS[5], 'version', 1)
end
if parent and parent ~= '' and redis.call('HINCRBY', KEYS[3], parent, -1) < 1 then
  redis.call('HDEL', KEYS[3], parent)
  redis.call('SADD', KEYS[4], parent)
end
-- Last: a set that loses its last member is gone, and while its slot moves to another master of a
-- cluster a script that makes a key anew is broken off half way.
redis.call('SREM', KEYS[4], ARGV[1])
return {'ok', labels or ''}
