-- KEYS: lease     ARGV: lease token, milliseconds (0 releases)
local lease = redis.call('GET', KEYS[1])
if not lease or string.match(lease, '^%d+:%x+') ~= ARGV[1] then return 'lost' end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 'ok'
