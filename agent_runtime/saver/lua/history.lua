-- What channels of a checkpoint are rebuilt from: pending writes of the checkpoints before it, back
-- to the one that has the channel's value.
-- KEYS: rows, order, values
-- ARGV: place, or '' for the newest in a range of places: its end, its beginning;
--       what keys of pending writes begin with; most checkpoints to look at;
--       1 to go on from a place that was looked at, or 0; channels
-- Returns places with their pending writes and the channels whose value is there, newest first;
-- then where to go on from, and the channels to go on with, if it looked at as many as it may; and
-- channels that cannot be rebuilt, since what they were before is not there any more.
local place = ARGV[1]
if place == '' then
  place = redis.call('ZREVRANGEBYLEX', KEYS[2], ARGV[2], ARGV[3], 'LIMIT', 0, 1)[1]
  if not place then return {{}, '', {}, {}} end
end
local namespace = place:match('^(.*)%z')
local wanting = {unpack(ARGV, 7)}
local row = redis.call('HGET', KEYS[1], place)
if not row then return {{}, '', {}, ARGV[6] == '1' and wanting or {}} end
local unpacked = cmsgpack.unpack(row)
local found, lost = {}, {}
while #wanting > 0 and unpacked[3] do
  if #found == tonumber(ARGV[5]) then return {found, place, wanting, lost} end
  local before = namespace .. '\0' .. unpacked[3]
  row = redis.call('HGET', KEYS[1], before)
  if not row then
    for _, channel in ipairs(wanting) do
      if unpacked[4][channel] then lost[#lost + 1] = channel end
    end
    break
  end
  place, unpacked = before, cmsgpack.unpack(row)
  local valued, seeds, still = {}, {}, {}
  for _, channel in ipairs(unpacked[5] or {}) do valued[channel] = true end
  for _, channel in ipairs(wanting) do
    local version = unpacked[4][channel]
    local field = version and namespace .. '\0' .. channel .. '\0' .. version
    if field and redis.call('HEXISTS', KEYS[3], field) == 1 then
      seeds[#seeds + 1] = channel
      seeds[#seeds + 1] = field
    elseif valued[channel] then
      lost[#lost + 1] = channel
    else
      still[#still + 1] = channel
    end
  end
  found[#found + 1] = {place, redis.call('HGETALL', ARGV[4] .. place), seeds}
  wanting = still
end
return {found, '', {}, lost}
