-- What channels of a checkpoint are rebuilt from: pending writes of the checkpoints before it, back
-- to the one that has the channel's value.
-- KEYS: rows, order, values
-- ARGV: place, or '' for the newest in a range of places: its end, its beginning;
--       what keys of pending writes begin with; most checkpoints to look at;
--       1 to begin at the place, 0 at the one before it; channels
-- Returns places with their pending writes and the channels whose value is there, newest first;
-- then where to go on from, and the channels to go on with, if it looked at as many as it may.
local place = ARGV[1]
if place == '' then
  place = redis.call('ZREVRANGEBYLEX', KEYS[2], ARGV[2], ARGV[3], 'LIMIT', 0, 1)[1]
  if not place then return {{}, '', {}} end
end
local namespace = place:match('^(.*)%z')
local wanting = {unpack(ARGV, 7)}
local found = {}
local row = redis.call('HGET', KEYS[1], place)
if row and ARGV[6] == '0' then
  local parent = cmsgpack.unpack(row)[3]
  place = parent and namespace .. '\0' .. parent
  row = parent and redis.call('HGET', KEYS[1], place)
end
while row and #wanting > 0 do
  if #found == tonumber(ARGV[5]) then return {found, place, wanting} end
  local unpacked = cmsgpack.unpack(row)
  local seeds, still = {}, {}
  for _, channel in ipairs(wanting) do
    local version = unpacked[4][channel]
    local field = version and namespace .. '\0' .. channel .. '\0' .. version
    if field and redis.call('HEXISTS', KEYS[3], field) == 1 then
      seeds[#seeds + 1] = channel
      seeds[#seeds + 1] = field
    else
      still[#still + 1] = channel
    end
  end
  found[#found + 1] = {place, redis.call('HGETALL', ARGV[4] .. place), seeds}
  wanting = still
  local parent = unpacked[3]
  place = parent and namespace .. '\0' .. parent
  row = parent and redis.call('HGET', KEYS[1], place)
end
return {found, '', {}}
