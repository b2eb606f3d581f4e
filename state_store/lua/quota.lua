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
