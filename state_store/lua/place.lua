-- Find where in a history a number of tokens ends, skipping as `commit.lua` has marked the way.
-- KEYS: first snapshot     ARGV: key prefix of snapshots (same slot), first snapshot id, tokens
-- Returns {the last snapshot with at most so many tokens or '', the one after it or ''}, and as a
-- third 'walk' if the way on from the first is not marked: it was committed before ways were.
local prefix, at, tokens = ARGV[1], ARGV[2], tonumber(ARGV[3])
local after = ''
while at ~= '' do
  local record = redis.call('HMGET', prefix .. at, 'skip', 'parent')
  if not record[1] then return {at, after, 'walk'} end
  local total, skipped, over = string.match(record[1], '^(%d+) %d+ (%d*) ?(.*)$')
  if tonumber(total) <= tokens then return {at, after} end
  after = at
  if skipped ~= '' and tonumber(skipped) > tokens then at = over else at = record[2] end
end
return {'', after}
