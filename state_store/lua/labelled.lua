-- The ids that are listed under all of some labels.
-- KEYS: labels of one tenant
local fewest = 1
for i = 2, #KEYS do
  if redis.call('ZCARD', KEYS[i]) < redis.call('ZCARD', KEYS[fewest]) then fewest = i end
end
local found = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[fewest], 0, -1)) do
  local under_all = true
  for i = 1, #KEYS do
    under_all = under_all and redis.call('ZSCORE', KEYS[i], id)
  end
  if under_all then found[#found + 1] = id end
end
return found
