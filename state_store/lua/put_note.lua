-- Uses: quota
-- Put a note of a tenant who is as the writer knows it.
-- KEYS: note, the tenant's record, its usage, quota, reserved and list of notes
-- ARGV: the record as the writer knows it, value, milliseconds that it lives, 'NX' or '', its name,
--       '1' if it is put however full the quota is
-- Returns {0} if the tenant is another, {1} when it is put, {1, note} if one is there already, or what
-- the quota has too little room for.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return {0} end
if ARGV[4] == 'NX' then
  local there = redis.call('GET', KEYS[1])
  if there then return {1, there} end
end
local bytes = #ARGV[2] + #ARGV[5]
if ARGV[6] ~= '1' then
  local more = bytes - note_bytes(KEYS[1], ARGV[5])
  local full = full_of_bytes(KEYS[4], KEYS[3], KEYS[5], more)
  if full then return full end
end
count_note(KEYS[3], KEYS[4], KEYS[6], KEYS[1], ARGV[5], bytes, tonumber(ARGV[3]))
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return {1}
