-- Remove checkpoints with their pending writes.
-- KEYS: rows, order, runs, written, writes of each checkpoint     ARGV: place of each checkpoint
for i = 1, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[i])
  redis.call('ZREM', KEYS[2], ARGV[i])
  redis.call('HDEL', KEYS[3], ARGV[i])
  redis.call('SREM', KEYS[4], ARGV[i])
  redis.call('DEL', KEYS[4 + i])
end
return 'ok'
