-- Whether a snapshot is still dead, and the pin it died with, read as one: a commit may revive it
-- with another. One that something refers to is alive, whoever put it among the dead.
-- KEYS: dead, snapshot, refs     ARGV: snapshot id
-- Returns {body, pin id, name of its files}, or {} if it is not dead (any more).
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then return {} end
local record = redis.call('HMGET', KEYS[2], 'body', 'pin', 'files')
local refs = redis.call('HGET', KEYS[3], ARGV[1])
local alive = refs and (tonumber(refs) or 1) > 0 -- one that cannot be read is kept for repair
if not alive and (record[1] or record[2]) then
  return {record[1] or '', record[2] or '', record[3] or ''}
end
redis.call('SREM', KEYS[1], ARGV[1])
return {}
