-- A checkpoint with all that it is made of; or, of the checkpoint's values alone, those that are named.
-- KEYS: rows, order, values, items
-- ARGV: place, or '' for the newest in a range of places: its end, its beginning;
--       what keys of pending writes begin with; bytes of a digest;
--       chunks of items that the reader has the items of; value fields, if only these are read
-- Returns value fields and entries, digests and bodies, those of the reader's chunks whose items
-- are all there, which are not sent; and place, row, pending writes. Or nothing.
local width = tonumber(ARGV[5])
local function digests(joined)
  local list = {}
  for at = 1, #joined, width do list[#list + 1] = joined:sub(at, at + width - 1) end
  return list
end
local held = {}
for _, chunk in ipairs(digests(ARGV[6])) do held[chunk] = true end

local place, row = ARGV[1], nil
local fields = {unpack(ARGV, 7)}
if #fields == 0 then
  if place == '' then
    place = redis.call('ZREVRANGEBYLEX', KEYS[2], ARGV[2], ARGV[3], 'LIMIT', 0, 1)[1]
  end
  row = place and redis.call('HGET', KEYS[1], place)
  if not row then return {} end
  local namespace = place:match('^(.*)%z')
  for channel, version in pairs(cmsgpack.unpack(row)[4]) do
    fields[#fields + 1] = namespace .. '\0' .. channel .. '\0' .. version
  end
end

local entries, bodies, whole = {}, {}, {}
local sent, looked_at = {}, {}
local function collect(names)
  -- The bodies of no more names than a chunk has.
  local found = redis.call('HMGET', KEYS[4], unpack(names))
  for i, name in ipairs(names) do
    if found[i] and not sent[name] then
      sent[name] = true
      bodies[#bodies + 1] = name
      bodies[#bodies + 1] = found[i]
    end
  end
  return found
end
local function has_all(names)
  for _, body in ipairs(redis.call('HMGET', KEYS[4], unpack(names))) do
    if not body then return false end
  end
  return true
end
local function descend(names, depth)
  for i, body in ipairs(collect(names)) do
    if body and not looked_at[names[i]] then
      looked_at[names[i]] = true
      local below = digests(body)
      if depth > 1 then
        descend(below, depth - 1)
      elseif held[names[i]] and has_all(below) then
        whole[#whole + 1] = names[i]
      else
        collect(below)
      end
    end
  end
end

-- The entry of a list is a pair of a number, twice its depth and perhaps one more, and of bytes,
-- which cmsgpack does not know: what follows their head.
local heads = {[0xc4] = 4, [0xc5] = 5, [0xc6] = 7}
for _, field in ipairs(fields) do
  local entry = redis.call('HGET', KEYS[3], field)
  if entry then
    entries[#entries + 1] = field
    entries[#entries + 1] = entry
    if entry:byte(1) == 0x92 then
      descend(digests(entry:sub(1 + heads[entry:byte(3)])), math.floor(entry:byte(2) / 2))
    end
  end
end
if not row then return {entries, bodies, whole} end
return {entries, bodies, whole, place, row, redis.call('HGETALL', ARGV[4] .. place)}
