-- A checkpoint with all that it is made of.
-- KEYS: rows, order, values, items
-- ARGV: place, or '' for the newest in a range of places: its end, its beginning;
--       what keys of pending writes begin with; the first byte of values that are lists of chunks;
--       bytes of a digest
-- Returns place, row, value fields and entries, digests and bodies, pending writes; or nothing.
local place = ARGV[1]
if place == '' then
  place = redis.call('ZREVRANGEBYLEX', KEYS[2], ARGV[2], ARGV[3], 'LIMIT', 0, 1)[1]
end
local row = place and redis.call('HGET', KEYS[1], place)
if not row then return {} end
local list, width = tonumber(ARGV[5]), tonumber(ARGV[6])
local entries, bodies, seen = {}, {}, {}
local function collect(digests)
  local new = {}
  for at = 1, #digests, width do
    local digest = digests:sub(at, at + width - 1)
    if not seen[digest] then
      seen[digest] = true
      new[#new + 1] = digest
    end
  end
  local found = {}
  for first = 1, #new, 1000 do
    local last = math.min(first + 999, #new)
    local some = redis.call('HMGET', KEYS[4], unpack(new, first, last))
    for i = first, last do
      local body = some[i - first + 1]
      if body then
        bodies[#bodies + 1] = new[i]
        bodies[#bodies + 1] = body
        found[#found + 1] = body
      end
    end
  end
  return found
end
-- A pair of a number and bytes, which cmsgpack does not know: what follows its head.
local heads = {[0xc4] = 4, [0xc5] = 5, [0xc6] = 7}
for _, field in ipairs(cmsgpack.unpack(row)[4]) do
  local entry = redis.call('HGET', KEYS[3], field)
  if entry then
    entries[#entries + 1] = field
    entries[#entries + 1] = entry
    if entry:byte(1) == list then
      for _, chunk in ipairs(collect(entry:sub(1 + heads[entry:byte(3)]))) do collect(chunk) end
    end
  end
end
return {place, row, entries, bodies, redis.call('HGETALL', ARGV[4] .. place)}
