-- What scripts do with contents of files that are in the archive. A hash of the lineage has of each
-- 'generation bytes digest', and a unix time behind it of one that nothing held any more: until then
-- it stays all the same, if nothing holds it again.
local function bytes_of_cold(value) return tonumber(string.match(value, '^%S+ (%d+)')) or 0 end
local function keep_cold(cold, name, value, lives_until)
  local what, known = string.match(value, '^(%S+ %d+ %x+) ?(%d*)$')
  if what and (tonumber(known) or 0) < lives_until then
    redis.call('HSET', cold, name, string.format('%s %d', what, lives_until))
  end
end
local function condemn_cold(cold, condemned, name, value)
  redis.call('HDEL', cold, name) -- first: a full store lets a script add only after it has removed
  local generation = string.match(value, '^%S+') or ''
  redis.call('HSET', condemned, name .. ' ' .. generation, redis.call('TIME')[1])
end
