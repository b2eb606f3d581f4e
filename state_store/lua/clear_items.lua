-- Uses: quota
-- Delete a list of items, or forget one that has expired.
-- KEYS: list, usage     ARGV: its name in the usage, '1' if it is to be deleted
if ARGV[2] == '1' then redis.call('DEL', KEYS[1]) end
if redis.call('EXISTS', KEYS[1]) == 0 then uncount(KEYS[2], ARGV[1]) end
return 1
