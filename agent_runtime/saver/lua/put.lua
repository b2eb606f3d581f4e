-- Store a checkpoint, unless something that it builds on is not there.
-- KEYS: rows, runs, values, items, order, puts, renewed
-- ARGV: place, row, run id or '', milliseconds to live or 0, 1 if the thread is listed or 0,
--       count, then value fields and entries; count, then digests and bodies of new items;
--       count, then digests that are there already; count, then fields of values that are
-- Returns 'stored', or 'due' if the thread's pending writes are to be renewed too. Or it does nothing
-- and returns 'disinherited' and the fields that are not there; 'missing' and the digests that are
-- not; or 'unlisted', of a thread that has no checkpoint yet and may not be listed.
if ARGV[5] == '0' and redis.call('EXISTS', KEYS[1]) == 0 then return {'unlisted'} end
local at = 6
local function list(width)
  local first = at + 1
  local last = at + tonumber(ARGV[at]) * width
  at = last + 1
  return first, last
end
local values_first, values_last = list(2)
local items_first, items_last = list(2)
local known_first, known_last = list(1)
local kept_first, kept_last = list(1)
local function lacking(name, key, first, last)
  local found = {name}
  for i = first, last do
    if redis.call('HEXISTS', key, ARGV[i]) == 0 then found[#found + 1] = ARGV[i] end
  end
  return found
end
local disinherited = lacking('disinherited', KEYS[3], kept_first, kept_last)
if #disinherited > 1 then return disinherited end
local missing = lacking('missing', KEYS[4], known_first, known_last)
if #missing > 1 then return missing end
for i = values_first, values_last, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
for i = items_first, items_last, 2 do redis.call('HSET', KEYS[4], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[5], 0, ARGV[1])
if ARGV[3] ~= '' then redis.call('HSET', KEYS[2], ARGV[1], ARGV[3]) end
redis.call('INCR', KEYS[6])
if ARGV[4] ~= '0' then
  for i = 1, 6 do redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
  if redis.call('EXISTS', KEYS[7]) == 0 then return {'due'} end
end
return {'stored'}
