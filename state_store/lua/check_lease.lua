-- What is wrong with a lease, '' if nothing; and mend it if asked.
-- KEYS: session, lease, fence     ARGV: 'look' or 'mend'
local lease = redis.call('GET', KEYS[2])
if not lease then return '' end
local fence = tonumber(string.match(lease, '^(%d+):%x+:.*$') or '')
local mending = ARGV[1] == 'mend'
if not fence then
  if mending then redis.call('DEL', KEYS[2]) end
  return 'malformed: nobody can hold it'
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  if mending then redis.call('DEL', KEYS[2]) end
  return 'of no session'
end
if (tonumber(redis.call('GET', KEYS[3]) or '0') or -1) < fence then
  if mending then redis.call('SET', KEYS[3], string.match(lease, '^%d+')) end
  return 'its fence is ahead of the lineage\'s'
end
if redis.call('TTL', KEYS[2]) == -1 then
  if mending then redis.call('EXPIRE', KEYS[2], 60) end -- a holder that is alive renews it
  return 'never expires'
end
return ''
