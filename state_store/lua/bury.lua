-- Remove a dead snapshot whose pins are gone, and let go of its parent.
-- KEYS: snapshot, tokens, refs, dead, usage, held files
-- ARGV: snapshot id, pin id that was removed, key prefixes of sets of files and of blobs, seconds that
--       files live on which nothing holds any more, 0 if they go at once
if redis.call('SISMEMBER', KEYS[4], ARGV[1]) == 0 then return 'alive' end
if (redis.call('HGET', KEYS[1], 'pin') or '') ~= ARGV[2] then return 'alive' end
local refs = redis.call('HGET', KEYS[3], ARGV[1])
if refs and (tonumber(refs) or 1) > 0 then -- see doomed.lua; repair pins its objects again
  redis.call('SREM', KEYS[4], ARGV[1])
  return 'alive'
end
local parent, size, count, files =
  unpack(redis.call('HMGET', KEYS[1], 'parent', 'bytes', 'count', 'files'))
redis.call('DEL', KEYS[1], KEYS[2])
local function drop(key)
  if ARGV[5] == '0' then redis.call('UNLINK', key) else redis.call('EXPIRE', key, ARGV[5]) end
end
local function let_go(what)
  if redis.call('HINCRBY', KEYS[6], what, -1) > 0 then return false end
  redis.call('HDEL', KEYS[6], what)
  return true
end
if files and files ~= '' and let_go('files:' .. files) then
  for name in string.gmatch(redis.call('HGET', ARGV[3] .. files, 'blobs') or '', '%x+') do
    if let_go('blob:' .. name) then drop(ARGV[4] .. name) end
  end
  drop(ARGV[3] .. files)
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
return 'ok'
