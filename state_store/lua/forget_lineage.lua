-- Uses: cold_files
-- Forget what a lineage that holds nothing any more has beside its records.
-- KEYS: sessions, refs, journals, aborted, fence, seed, usage, effects, held files,
--       wanted files, loose files, cold files, condemned files, which stays until they are deleted, tree
-- Returns 1 if there was nothing to keep them for.
for i = 1, 4 do
  if redis.call('EXISTS', KEYS[i]) == 1 then return 0 end
end
local cold = redis.call('HGETALL', KEYS[12])
for i = 1, #cold, 2 do condemn_cold(KEYS[12], KEYS[13], cold[i], cold[i + 1]) end
redis.call('DEL', KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[14])
return 1
