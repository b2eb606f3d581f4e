-- Store pending writes of a checkpoint.
-- KEYS: written, renewed, the checkpoint's writes, then all that lives as long as the thread, its
--       rows first
-- ARGV: place, milliseconds that the thread lives or 0, milliseconds that writes do; then fields,
--       entries, and 1 for each that replaces what is there or 0
-- Returns 1 if the thread has a checkpoint or 0; 1 if its writes are to be renewed or 0.
redis.call('SADD', KEYS[1], ARGV[1])
for i = 4, #ARGV, 3 do
  redis.call(ARGV[i + 2] == '1' and 'HSET' or 'HSETNX', KEYS[3], ARGV[i], ARGV[i + 1])
end
local is_due = 0
if ARGV[2] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  redis.call('PEXPIRE', KEYS[3], ARGV[3])
  for i = 4, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
  is_due = 1 - redis.call('EXISTS', KEYS[2])
end
return {redis.call('EXISTS', KEYS[4]), is_due}
