-- Hold an object on all ranks for a commit, if all ranks have it or the archive does, and, if it is
-- encrypted, its seed is there and it was encrypted under that one.
-- KEYS: pins, cold, seed, object of each rank     ARGV: pin id, 1 if encrypted
local archived = redis.call('EXISTS', KEYS[2]) == 1
local encrypted = ARGV[2] == '1'
local seed = encrypted and redis.call('GETRANGE', KEYS[3], 0, 3)
local whole, here, unreadable = seed ~= '', {}, {}
for i = 4, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    whole = whole and archived
  elseif encrypted and redis.call('GETRANGE', KEYS[i], 108, 111) ~= seed then
    unreadable[#unreadable + 1] = KEYS[i]
    whole = whole and archived
  else
    here[#here + 1] = KEYS[i]
  end
end
-- It stands in the way of writers, who store only what is not there.
if #unreadable > 0 and (archived or redis.call('EXISTS', KEYS[1]) == 0) then
  redis.call('UNLINK', unpack(unreadable))
end
if not whole then return 0 end
redis.call('SADD', KEYS[1], ARGV[1])
for _, key in ipairs(here) do redis.call('PERSIST', key) end
if encrypted then redis.call('PERSIST', KEYS[3]) end
return 1
