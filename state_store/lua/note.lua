-- Uses: quota
-- Put a note on a session, and list it for who deletes the session.
-- KEYS: note, list of the session's notes, the tenant's usage, quota, reserved and list of notes
-- ARGV: value, milliseconds that it lives, its name, '1' if it is put however full the quota is
-- Returns {1}, or what the quota has too little room for.
local bytes = #ARGV[1] + #ARGV[3]
if ARGV[4] ~= '1' then
  local more = bytes - note_bytes(KEYS[1], ARGV[3])
  local full = full_of_bytes(KEYS[4], KEYS[3], KEYS[5], more)
  if full then return full end
end
local time = redis.call('TIME')
local now, ttl = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZADD', KEYS[2], now + ttl, ARGV[3])
if redis.call('PTTL', KEYS[2]) < ttl then redis.call('PEXPIRE', KEYS[2], ttl) end
count_note(KEYS[3], KEYS[4], KEYS[6], KEYS[1], ARGV[3], bytes, ttl)
redis.call('SET', KEYS[1], ARGV[1], 'PX', ttl)
return {1}
