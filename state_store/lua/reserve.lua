-- Uses: quota
-- Hold room in a tenant's quota for what is about to be added, if there is that much.
-- KEYS: quota, usage, sessions, reserved
-- ARGV: id of the room, bytes, tokens and sessions to be added, seconds until it is free again
-- Returns {} if the tenant has no quota, {1} if the room is held, or else {'full', what there is too
-- little of, what the tenant may have of it, has, and would get, what others hold room for}.
local names = {'bytes', 'tokens', 'sessions'}
local limits = redis.call('HMGET', KEYS[1], unpack(names))
if not (limits[1] or limits[2] or limits[3]) then return {} end
local now = tonumber(redis.call('TIME')[1])
local bytes, tokens = sum_of(KEYS[2])
local has, held = {bytes, tokens, redis.call('ZCARD', KEYS[3])}, {0, 0, 0}
local rooms = redis.call('HGETALL', KEYS[4])
for i = 1, #rooms, 2 do
  local free_at, bytes, tokens, sessions = string.match(rooms[i + 1], '^(%d+):(%d+):(%d+):(%d+)$')
  if tonumber(free_at) < now then
    redis.call('HDEL', KEYS[4], rooms[i])
  elseif rooms[i] ~= ARGV[1] then
    held = {held[1] + bytes, held[2] + tokens, held[3] + sessions}
  end
end
for i, name in ipairs(names) do
  local limit, more = tonumber(limits[i] or '-1'), tonumber(ARGV[i + 1])
  if limit >= 0 and more > 0 and has[i] + held[i] + more > limit then
    return {'full', name, limit, has[i], more, held[i]}
  end
end
local room = {now + ARGV[5], ARGV[2], ARGV[3], ARGV[4]}
redis.call('HSET', KEYS[4], ARGV[1], table.concat(room, ':'))
redis.call('EXPIRE', KEYS[4], ARGV[5])
return {1}
