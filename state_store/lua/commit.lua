-- Make a snapshot the head of a session, if the caller may; or the last of several, each of which
-- goes on from the one before it: then all of them are there, or none.
-- KEYS: session, lease, refs, dead, journals, aborted, usage, held files, cold files, tree; of each
--       its snapshot and tokens
-- ARGV: lease token, expected head, key prefixes of snapshots, of sets of files and of blobs (same
--       slot), parent of the first; of each its id, pin id, body, tokens, bytes of its objects and
--       number of its tokens, for quotas, tokens of the whole history, name of its files or ''
-- The expected head is the parent, or descends from it: then the last takes its place.
-- Returns {'ok', '', and of each pin id and body that it keeps, pin id to remove or ''} or
-- {reason, detail}.
local token, expected, prefix, files_at, blob_at, parent = unpack(ARGV, 1, 6)
local chain = {}
for at = 7, #ARGV, 8 do
  local id, pin, body, tokens, size, count, total, files = unpack(ARGV, at, at + 7)
  local key = 11 + 2 * #chain
  chain[#chain + 1] = {id = id, pin = pin, body = body, tokens = tokens, size = size,
    count = count, total = total, files = files, record = KEYS[key], log = KEYS[key + 1]}
end
local last = chain[#chain]
local head = redis.call('HGET', KEYS[1], 'head')
if not head then return {'no_session', ''} end
local lease = redis.call('GET', KEYS[2])
if not lease or string.match(lease, '^%d+:%x+') ~= token then
  return {'lease_lost', lease and string.match(lease, '^%d+:%x+:(.*)$') or ''}
end
for _, one in ipairs(chain) do
  one.kept_pin, one.kept_body = unpack(redis.call('HMGET', one.record, 'pin', 'body'))
  one.superseded = ''
end
local function done()
  local outcome = {'ok', ''}
  for _, one in ipairs(chain) do
    outcome[#outcome + 1] = {one.kept_pin, one.kept_body, one.superseded}
  end
  return outcome
end
if head == last.id then return done() end
if head ~= expected then return {'head_moved', head} end
local at = expected
while at ~= parent do
  if at == '' then return {'unrelated', ''} end
  at = redis.call('HGET', prefix .. at, 'parent')
  if not at then return {'unrelated', ''} end
end
for _, one in ipairs(chain) do
  if redis.call('HEXISTS', KEYS[5], one.pin) == 0 then return {'too_late', ''} end
end
local function is_held(files)
  return files == '' or redis.call('HEXISTS', KEYS[8], 'files:' .. files) == 1
end
-- Going on with files that the parent has asks for nothing: what is lost of those is lost already.
local files_before = parent ~= '' and redis.call('HGET', prefix .. parent, 'files') or ''
for _, one in ipairs(chain) do
  local new = one.files ~= '' and one.files ~= files_before
  files_before = one.files
  if new or not is_held(one.files) then
    one.blobs = redis.call('HGET', files_at .. one.files, 'blobs')
    if not one.blobs then return {'no_files', ''} end
    for name in string.gmatch(one.blobs, '%x+') do
      if redis.call('EXISTS', blob_at .. name) == 0 and redis.call('HEXISTS', KEYS[9], name) == 0 then
        return {'no_files', name}
      end
    end
  end
end
-- The way back from a snapshot is marked with an ancestor to skip to, chosen so that any other is
-- reached in a logarithmic number of steps (Myers, An applicative random-access stack, 1983):
-- 'tokens depth', then tokens and id of the ancestor, or nothing.
local function mark(of)
  local tokens_of, depth, tokens_over, over = string.match(
    redis.call('HGET', prefix .. of, 'skip') or '', '^(%d+) (%d+) (%d*) ?(.*)$')
  return tokens_of, tonumber(depth), tokens_over, over
end
local function way_back(from, total)
  local tokens_of, depth, tokens_over, over = mark(from)
  if from == '' or not depth then return total .. ' 0 ' end
  local one = {depth = depth + 1, tokens = tokens_of, over = from}
  if over ~= '' then
    local _, further, tokens_beyond, beyond = mark(over)
    local _, furthest = mark(beyond or '')
    if furthest and depth - further == further - furthest then
      one.tokens, one.over = tokens_beyond, beyond
    end
  end
  return string.format('%s %d %s %s', total, one.depth, one.tokens, one.over)
end
-- When a snapshot was made by the server's clock, and in any case after its parent; see `LineageKeys.tree`.
local clock = redis.call('TIME')
local function made(after)
  local now = tonumber(clock[1] .. '.' .. string.format('%06d', clock[2]))
  local before = after ~= '' and tonumber(redis.call('ZSCORE', KEYS[10], after) or '0') or 0
  return string.format('%.6f', math.max(now, before + 0.000002))
end
-- A right that is missing breaks the script off in the middle. So a record is written whole, and
-- what refers to something is counted before it does and forgotten after it did: what was begun
-- holds too much at worst, which recovery and repair let go.
for _, one in ipairs(chain) do
  one.fresh = redis.call('EXISTS', one.record) == 0
  one.dead = redis.call('SISMEMBER', KEYS[4], one.id) == 1
  if one.fresh then
    local skip = way_back(parent, one.total)
    if not is_held(one.files) then -- by none in front of it either
      for name in string.gmatch(one.blobs, '%x+') do
        redis.call('HINCRBY', KEYS[8], 'blob:' .. name, 1)
        redis.call('PERSIST', blob_at .. name)
      end
      redis.call('PERSIST', files_at .. one.files)
    end
    if one.files ~= '' then redis.call('HINCRBY', KEYS[8], 'files:' .. one.files, 1) end
    redis.call('ZADD', KEYS[10], made(parent), one.id)
    redis.call('SET', one.log, one.tokens)
    if parent ~= '' then redis.call('HINCRBY', KEYS[3], parent, 1) end
    redis.call('HSET', one.record, 'body', one.body, 'parent', parent, 'pin', one.pin,
      'bytes', one.size, 'count', one.count, 'skip', skip, 'files', one.files)
    one.kept_pin, one.kept_body = one.pin, one.body
  elseif one.dead then
    -- Nothing held it and its pins are being removed: it lives on by the new ones. Whoever removes
    -- the old ones may have died, so they are recorded like those of an abandoned commit.
    if one.kept_pin then
      one.superseded = one.kept_pin
      redis.call('HSET', KEYS[6], one.kept_pin, redis.call('HGET', KEYS[5], one.pin))
    end
    redis.call('HSET', one.record, 'pin', one.pin)
    one.kept_pin = one.pin
  end
  parent = one.id
end
redis.call('HINCRBY', KEYS[3], last.id, 1)
for _, one in ipairs(chain) do
  if one.dead then redis.call('SREM', KEYS[4], one.id) end
end
redis.call('HSET', KEYS[1], 'head', last.id)
if expected ~= '' and redis.call('HINCRBY', KEYS[3], expected, -1) < 1 then
  redis.call('SADD', KEYS[4], expected)
  redis.call('HDEL', KEYS[3], expected)
end
for _, one in ipairs(chain) do
  if one.fresh then
    redis.call('HINCRBY', KEYS[7], 'bytes', one.size)
    redis.call('HINCRBY', KEYS[7], 'tokens', one.count)
    redis.call('HINCRBY', KEYS[7], 'version', 1)
  end
  if one.kept_pin == one.pin then redis.call('HDEL', KEYS[5], one.pin) end
end
return done()
