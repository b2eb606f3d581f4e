-- Count what a lineage's heads and its dead reach, as one; and mend the counts if asked.
-- KEYS: sessions, refs, dead, usage, tree
-- ARGV: 'look' or 'mend', key prefixes of sessions, snapshots and token logs (same slot), how many
--       of the ids that follow are sessions' that have a record and may be on no list; the others
--       are snapshots' that have a record or a token log and may be reached by nobody
-- Returns {gaps, {session id, head or '?'}, {snapshot id, parent or '?', pin or '', bytes of its
-- token log}, refs, dead, unlisted sessions, snapshots that nobody reaches, token logs of no
-- snapshot, {snapshot id, references it has}, usage and what it ought to be, ids that the tree lacks
-- or has before their parents, ids that it lists and that are no more}.
-- A gap is a record that is missing though something names it. What it held cannot be told, so
-- while there is one nothing is let go.
local mending = ARGV[1] == 'mend'
local session_at, snapshot_at, tokens_at = ARGV[2], ARGV[3], ARGV[4]
local first_snapshot = 6 + tonumber(ARGV[5])
local gaps, listed, unlisted, ids = 0, {}, {}, redis.call('SMEMBERS', KEYS[1])
for _, id in ipairs(ids) do listed[id] = true end
for i = 6, first_snapshot - 1 do
  if not listed[ARGV[i]] and redis.call('EXISTS', session_at .. ARGV[i]) == 1 then
    unlisted[#unlisted + 1] = ARGV[i]
    ids[#ids + 1] = ARGV[i]
    if mending then redis.call('SADD', KEYS[1], ARGV[i]) end
  end
end

local wanted, waiting, sessions, snapshots, reached, parents = {}, {}, {}, {}, {}, {}
local bytes, tokens = 0, 0
local function refer(id)
  wanted[id] = (wanted[id] or 0) + 1
  waiting[#waiting + 1] = id
end
local function walk()
  while #waiting > 0 do
    local id = table.remove(waiting)
    if not reached[id] and redis.call('EXISTS', snapshot_at .. id) == 1 then
      reached[id] = true
      local record = redis.call('HMGET', snapshot_at .. id, 'parent', 'pin', 'bytes', 'count')
      bytes, tokens = bytes + (tonumber(record[3]) or 0), tokens + (tonumber(record[4]) or 0)
      local parent, size = record[1] or '?', redis.call('STRLEN', tokens_at .. id)
      for _, value in ipairs({id, parent, record[2] or '', size}) do
        snapshots[#snapshots + 1] = value
      end
      parents[id] = parent
      if parent == '?' then gaps = gaps + 1 elseif parent ~= '' then refer(parent) end
    end
  end
end

for _, id in ipairs(ids) do
  local head = redis.call('HGET', session_at .. id, 'head')
  sessions[#sessions + 1] = id
  sessions[#sessions + 1] = head or '?'
  if not head then gaps = gaps + 1 elseif head ~= '' then refer(head) end
end
local dead, is_dead = redis.call('SMEMBERS', KEYS[3]), {}
for _, id in ipairs(dead) do
  is_dead[id] = true
  waiting[#waiting + 1] = id
end
walk()
local strays, logs = {}, {}
for i = first_snapshot, #ARGV do
  local id = ARGV[i]
  if not reached[id] and redis.call('EXISTS', snapshot_at .. id) == 1 then
    strays[#strays + 1] = id
    waiting[#waiting + 1] = id
  end
end
-- A stray that another stray reaches is let go with that one.
local before = {}
for _, id in ipairs(strays) do before[id] = true end
walk()
local tops = {}
for _, id in ipairs(strays) do
  if not wanted[id] then tops[#tops + 1] = id end
end
local needed = {}
for id, count in pairs(wanted) do
  if not reached[id] then gaps = gaps + 1 end
  needed[#needed + 1] = id
  needed[#needed + 1] = count
end
for i = first_snapshot, #ARGV do
  local id = ARGV[i]
  if not reached[id] and not wanted[id] and redis.call('EXISTS', tokens_at .. id) == 1 then
    logs[#logs + 1] = id
  end
end
-- The tree lists all that has a record: a session anywhere, a snapshot after its parent.
local places, misplaced, phantoms = {}, {}, {}
local rows = redis.call('ZRANGE', KEYS[5], 0, -1, 'WITHSCORES')
for i = 1, #rows, 2 do
  local id = rows[i]
  places[id] = tonumber(rows[i + 1])
  local named = reached[id] or listed[id] or wanted[id]
  if not named and redis.call('EXISTS', session_at .. id, snapshot_at .. id) == 0 then
    phantoms[#phantoms + 1] = id
    if mending then redis.call('ZREM', KEYS[5], id) end
  end
end
local function misplace(id, place)
  misplaced[#misplaced + 1] = id
  places[id] = place
  if mending then redis.call('ZADD', KEYS[5], string.format('%.6f', place), id) end
end
for i = 1, #sessions, 2 do
  if sessions[i + 1] ~= '?' and not places[sessions[i]] then misplace(sessions[i], i / 1000000) end
end
local placed = {}
for id in pairs(reached) do
  local path = {}
  while reached[id] and not placed[id] do
    placed[id] = true
    path[#path + 1] = id
    id = parents[id]
  end
  for i = #path, 1, -1 do
    local place, after = places[path[i]], places[parents[path[i]]] or -1
    if not place or place <= after then misplace(path[i], math.max(after, 0) + 0.000002) end
  end
end

local refs = redis.call('HGETALL', KEYS[2])
local usage = redis.call('HMGET', KEYS[4], 'bytes', 'tokens')
usage = {usage[1] or '0', usage[2] or '0', bytes, tokens}

if mending then
  local have = {}
  for i = 1, #refs, 2 do
    have[refs[i]] = tonumber(refs[i + 1]) or 0
    if not wanted[refs[i]] and gaps == 0 then redis.call('HDEL', KEYS[2], refs[i]) end
  end
  for id, count in pairs(wanted) do
    local counted = have[id] or 0
    if counted < count or (counted > count and gaps == 0) then
      redis.call('HSET', KEYS[2], id, count)
    end
    if is_dead[id] and reached[id] then redis.call('SREM', KEYS[3], id) end
  end
  if gaps == 0 then
    for _, id in ipairs(tops) do redis.call('SADD', KEYS[3], id) end
    for _, id in ipairs(logs) do redis.call('DEL', tokens_at .. id) end
  end
  local counted = {tonumber(usage[1]) or 0, tonumber(usage[2]) or 0}
  local whole = {bytes, tokens}
  if gaps > 0 then whole = {math.max(counted[1], bytes), math.max(counted[2], tokens)} end
  if usage[1] ~= tostring(whole[1]) or usage[2] ~= tostring(whole[2]) then
    redis.call('HSET', KEYS[4], 'bytes', whole[1], 'tokens', whole[2])
    redis.call('HINCRBY', KEYS[4], 'version', 1)
  end
end
return {gaps, sessions, snapshots, refs, dead, unlisted, tops, logs, needed, usage,
  misplaced, phantoms}
