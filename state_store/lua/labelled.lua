-- The ids that are listed under all of some labels.
-- KEYS: labels of one tenant
-- Returns {id, when it was listed under each label, ...} of each.
local fewest = 1
for i = 2, #KEYS do
  if redis.call('ZCARD', KEYS[i]) < redis.call('ZCARD', KEYS[fewest]) then fewest = i end
end
local found = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[fewest], 0, -1)) do
  local row = {id}
  for i = 1, #KEYS do
    local listed = redis.call('ZSCORE', KEYS[i], id)
    if not listed then break end
    row[i + 1] = listed
  end
  if #row == #KEYS + 1 then found[#found + 1] = row end
end
return found
