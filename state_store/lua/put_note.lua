-- Uses: quota
-- Put a note of a tenant who is as the writer knows it.
-- KEYS: note, the tenant's record, its usage, quota, reserved and list of notes
-- ARGV: the record as the writer knows it, value, milliseconds that it lives, its name, '1' if it is
--       put however full the quota is, 'any', 'new' or 'same': the note that may be there, which with
--       'same' is the last argument
-- Returns {0} if the tenant is another, {1} when it is put, {1, note} if another one is there, or what
-- the quota has too little room for.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return {0} end
local there = ARGV[6] ~= 'any' and redis.call('GET', KEYS[1])
if there and not (ARGV[6] == 'same' and there == ARGV[7]) then return {1, there} end
local bytes = #ARGV[2] + #ARGV[4]
if ARGV[5] ~= '1' then
  local more = bytes - note_bytes(KEYS[1], ARGV[4])
  local full = full_of_bytes(KEYS[4], KEYS[3], KEYS[5], more)
  if full then return full end
end
count_note(KEYS[3], KEYS[4], KEYS[6], KEYS[1], ARGV[4], bytes, tonumber(ARGV[3]))
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return {1}
