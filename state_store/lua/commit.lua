-- Make a snapshot the head of a session, if the caller may.
-- KEYS: session, lease, snapshot, tokens, refs, dead, journals, aborted, usage, held files
-- ARGV: lease token, parent, snapshot id, pin id, body, tokens, bytes of its objects and number of
--       its tokens, for quotas; expected head and key prefix of snapshots (same slot); tokens of
--       the whole history; name of its files or '', key prefixes of sets of files and of blobs
-- The expected head is the parent, or descends from it: then the snapshot takes its place.
-- Returns {'ok', pin id and body that the snapshot keeps, pin id to remove or ''} or
-- {reason, detail}.
local token, parent, id, pin, body, tokens, size, count, expected, prefix, total,
  files, files_at, blob_at = unpack(ARGV)
local head = redis.call('HGET', KEYS[1], 'head')
if not head then return {'no_session', ''} end
local lease = redis.call('GET', KEYS[2])
if not lease or string.match(lease, '^%d+:%x+') ~= token then
  return {'lease_lost', lease and string.match(lease, '^%d+:%x+:(.*)$') or ''}
end
local kept_pin, kept_body = unpack(redis.call('HMGET', KEYS[3], 'pin', 'body'))
if head == id then return {'ok', kept_pin, kept_body, ''} end
if head ~= expected then return {'head_moved', head} end
local at = expected
while at ~= parent do
  if at == '' then return {'unrelated', ''} end
  at = redis.call('HGET', prefix .. at, 'parent')
  if not at then return {'unrelated', ''} end
end
if redis.call('HEXISTS', KEYS[7], pin) == 0 then return {'too_late', ''} end
local new_files = files ~= '' and redis.call('HEXISTS', KEYS[10], 'files:' .. files) == 0
local blobs = new_files and redis.call('HGET', files_at .. files, 'blobs')
if new_files and not blobs then return {'no_files', ''} end
for name in string.gmatch(blobs or '', '%x+') do
  if redis.call('EXISTS', blob_at .. name) == 0 then return {'no_files', name} end
end
-- A right that is missing breaks the script off in the middle. So a record is written whole, and
-- what refers to something is counted before it does and forgotten after it did: what was begun
-- holds too much at worst, which recovery and repair let go.
local fresh = redis.call('EXISTS', KEYS[3]) == 0
local dead, superseded = redis.call('SISMEMBER', KEYS[6], id) == 1, ''
-- The way back from a snapshot is marked with an ancestor to skip to, chosen so that any other is
-- reached in a logarithmic number of steps (Myers, An applicative random-access stack, 1983):
-- 'tokens depth', then tokens and id of the ancestor, or nothing.
local function mark(of)
  local tokens_of, depth, tokens_over, over = string.match(
    redis.call('HGET', prefix .. of, 'skip') or '', '^(%d+) (%d+) (%d*) ?(.*)$')
  return tokens_of, tonumber(depth), tokens_over, over
end
local function way_back()
  local tokens_of, depth, tokens_over, over = mark(parent)
  if parent == '' or not depth then return total .. ' 0 ' end
  local one = {depth = depth + 1, tokens = tokens_of, over = parent}
  if over ~= '' then
    local _, further, tokens_beyond, beyond = mark(over)
    local _, furthest = mark(beyond or '')
    if furthest and depth - further == further - furthest then
      one.tokens, one.over = tokens_beyond, beyond
    end
  end
  return string.format('%s %d %s %s', total, one.depth, one.tokens, one.over)
end
if fresh then
  local skip = way_back()
  if new_files then
    for name in string.gmatch(blobs, '%x+') do
      redis.call('HINCRBY', KEYS[10], 'blob:' .. name, 1)
      redis.call('PERSIST', blob_at .. name)
    end
    redis.call('PERSIST', files_at .. files)
  end
  if files ~= '' then redis.call('HINCRBY', KEYS[10], 'files:' .. files, 1) end
  redis.call('SET', KEYS[4], tokens)
  if parent ~= '' then redis.call('HINCRBY', KEYS[5], parent, 1) end
  redis.call('HSET', KEYS[3], 'body', body, 'parent', parent, 'pin', pin, 'bytes', size,
    'count', count, 'skip', skip, 'files', files)
  kept_pin, kept_body = pin, body
elseif dead then
  -- Nothing held it and its pins are being removed: it lives on by the new ones. Whoever removes
  -- the old ones may have died, so they are recorded like those of an abandoned commit.
  superseded = kept_pin or ''
  if kept_pin then redis.call('HSET', KEYS[8], kept_pin, redis.call('HGET', KEYS[7], pin)) end
  redis.call('HSET', KEYS[3], 'pin', pin)
  kept_pin = pin
end
redis.call('HINCRBY', KEYS[5], id, 1)
if dead then redis.call('SREM', KEYS[6], id) end
redis.call('HSET', KEYS[1], 'head', id)
if expected ~= '' and redis.call('HINCRBY', KEYS[5], expected, -1) < 1 then
  redis.call('SADD', KEYS[6], expected)
  redis.call('HDEL', KEYS[5], expected)
end
if fresh then
  redis.call('HINCRBY', KEYS[9], 'bytes', size)
  redis.call('HINCRBY', KEYS[9], 'tokens', count)
  redis.call('HINCRBY', KEYS[9], 'version', 1)
end
if kept_pin == pin then redis.call('HDEL', KEYS[7], pin) end
return {'ok', kept_pin, kept_body, superseded}
