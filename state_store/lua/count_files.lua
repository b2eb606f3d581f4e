-- Uses: cold_files
-- Count what a lineage's snapshots hold of files, as one; and mend the counts if asked.
-- KEYS: held files, refs, dead, cold files, condemned files
-- ARGV: 'look', 'raise' (counts are not lowered) or 'mend'; key prefixes of snapshots, sets, blobs
-- Returns {{what is missing}, {what expires}, {what is counted wrongly, count, what it should be},
-- {archived, what is wrong}}, each named as the hash has it.
local mode, snapshot_at, files_at, blob_at = unpack(ARGV)
local want, seen, missing, expiring, wrong, gaps = {}, {}, {}, {}, {}, false
local now, cold, strange = tonumber(redis.call('TIME')[1]), {}, {}
local archived = redis.call('HGETALL', KEYS[4])
for i = 1, #archived, 2 do cold['blob:' .. archived[i]] = archived[i + 1] end
local function look(what, key)
  local left = redis.call('PTTL', key)
  if left == -2 and not cold[what] then missing[#missing + 1] = what end
  if left >= 0 then
    expiring[#expiring + 1] = what
    if mode ~= 'look' then redis.call('PERSIST', key) end
  end
end
local function count(id)
  if seen[id] then return end
  seen[id] = true
  local files = redis.call('HGET', snapshot_at .. id, 'files')
  if not files or files == '' then return end
  local what = 'files:' .. files
  want[what] = (want[what] or 0) + 1
  if want[what] > 1 then return end
  look(what, files_at .. files)
  local blobs = redis.call('HGET', files_at .. files, 'blobs')
  gaps = gaps or not blobs
  for name in string.gmatch(blobs or '', '%x+') do
    local blob = 'blob:' .. name
    want[blob] = (want[blob] or 0) + 1
    if want[blob] == 1 then look(blob, blob_at .. name) end
  end
end
for _, id in ipairs(redis.call('HKEYS', KEYS[2])) do count(id) end
for _, id in ipairs(redis.call('SMEMBERS', KEYS[3])) do count(id) end
local held = redis.call('HGETALL', KEYS[1])
local have = {}
for i = 1, #held, 2 do have[held[i]] = tonumber(held[i + 1]) or 0 end
local function compare(what)
  local has, needs = have[what] or 0, want[what] or 0
  if has == needs then return end
  wrong[#wrong + 1] = what
  wrong[#wrong + 1] = has
  wrong[#wrong + 1] = needs
  if mode == 'look' or (has > needs and (mode == 'raise' or gaps)) then return end
  if needs > 0 then
    redis.call('HSET', KEYS[1], what, needs)
  else
    redis.call('HDEL', KEYS[1], what)
    local kind, name = string.match(what, '^(%l+):(.*)$')
    if cold[what] then keep_cold(KEYS[4], name, cold[what], now + 3600) end
    redis.call('EXPIRE', (kind == 'files' and files_at or blob_at) .. (name or ''), 3600)
  end
end
for what in pairs(have) do compare(what) end
for what in pairs(want) do if not have[what] then compare(what) end end
for what, value in pairs(cold) do
  local name = string.match(what, ':(.*)$')
  local known = string.match(value, '^[%x%-]+ %d+ %x+')
  local ends = string.match(value, '^[%x%-]+ %d+ %x+ (%d+)$')
  local doubled = redis.call('EXISTS', blob_at .. name) == 1
  local unheld = not doubled and not want[what] and not have[what] and not ends
  if not known or doubled or unheld then
    strange[#strange + 1] = what
    strange[#strange + 1] = not known and 'malformed' or doubled and 'in memory too' or 'held by nobody'
    if mode ~= 'look' then
      if not known then
        redis.call('HDEL', KEYS[4], name) -- nothing can be found by it
      elseif unheld then
        keep_cold(KEYS[4], name, value, now + 3600)
      else
        condemn_cold(KEYS[4], KEYS[5], name, value)
      end
    end
  end
end
return {missing, expiring, wrong, strange}
