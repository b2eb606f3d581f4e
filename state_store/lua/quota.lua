-- What the scripts share that count for a tenant's quota, see `state_store/quotas.py`.
-- An entry of the usage is <version>:<bytes>:<tokens>, or gone:<when>. Its field 'sum' has
-- <bytes>:<tokens> of all entries, once a quota was asked for, and changes with them in one command.
local function counted(entry)
  local bytes, tokens = string.match(entry or '', '^%d+:(%d+):(%d+)$')
  return tonumber(bytes or 0), tonumber(tokens or 0)
end
local function write_sum(bytes, tokens)
  return string.format('%.0f:%.0f', bytes, tokens)
end
local function read_sum(usage)
  return string.match(redis.call('HGET', usage, 'sum') or '', '^(%d+):(%d+)$')
end
local function count(usage, name, entry)
  local bytes, tokens = read_sum(usage)
  if not bytes then return redis.call('HSET', usage, name, entry) end
  local bytes_before, tokens_before = counted(redis.call('HGET', usage, name))
  local bytes_now, tokens_now = counted(entry)
  local sum = write_sum(bytes + bytes_now - bytes_before, tokens + tokens_now - tokens_before)
  return redis.call('HSET', usage, name, entry, 'sum', sum)
end
local function uncount(usage, name)
  if redis.call('HEXISTS', usage, name) == 0 then return end
  count(usage, name, '0:0:0')
  redis.call('HDEL', usage, name)
end
local function sum_of(usage)
  local bytes, tokens = read_sum(usage)
  if bytes then return tonumber(bytes), tonumber(tokens) end
  bytes, tokens = 0, 0
  for _, entry in ipairs(redis.call('HVALS', usage)) do
    local more_bytes, more_tokens = counted(entry)
    bytes, tokens = bytes + more_bytes, tokens + more_tokens
  end
  redis.call('HSET', usage, 'sum', write_sum(bytes, tokens))
  return bytes, tokens
end
-- What there is too little room for, or nil: {'full', 'bytes', what the tenant may have of it, has, and
-- would get, what others hold room for}.
local function full_of_bytes(quota, usage, reserved, more)
  local limit = tonumber(redis.call('HGET', quota, 'bytes') or '-1')
  if limit < 0 or more <= 0 then return nil end
  local now, has, held = tonumber(redis.call('TIME')[1]), sum_of(usage), 0
  for _, room in ipairs(redis.call('HVALS', reserved)) do
    local free_at, bytes = string.match(room, '^(%d+):(%d+):')
    if tonumber(free_at) >= now then held = held + bytes end
  end
  if has + held + more > limit then return {'full', 'bytes', limit, has, more, held} end
end
-- The bytes of a note, its name included; 0 if it is not there.
local function note_bytes(key, name)
  if redis.call('EXISTS', key) == 0 then return 0 end
  return redis.call('STRLEN', key) + #name
end
-- Count a note that is about to be put, with so many bytes, or with 0 to be deleted. A sorted set has
-- <bytes>:<name> of each by the millisecond in which it expires: some of those that have are taken off.
local function count_note(usage, quota, notes, key, name, bytes, ttl)
  local time = redis.call('TIME')
  local now, more = time[1] * 1000 + math.floor(time[2] / 1000), 0
  local function take_off(member)
    if redis.call('ZREM', notes, member) == 1 then more = more - string.match(member, '^%d+') end
  end
  for _, one in ipairs(redis.call('ZRANGEBYSCORE', notes, '-inf', now, 'LIMIT', 0, 100)) do
    take_off(one)
  end
  take_off(string.format('%.0f:%s', note_bytes(key, name), name))
  if bytes > 0 then
    more = more + bytes * redis.call('ZADD', notes, now + ttl, string.format('%.0f:%s', bytes, name))
  end
  local counts = redis.call('HEXISTS', usage, 'notes') + redis.call('EXISTS', quota) > 0
  if more ~= 0 and counts then
    local total = counted(redis.call('HGET', usage, 'notes')) + more
    count(usage, 'notes', string.format('0:%.0f:0', math.max(0, total)))
  end
end
