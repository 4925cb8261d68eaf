#!lua name=ingest
-- Writes a key and says so in a stream, in one step: nobody sees the one without the other (Redis 7 or later, Valkey).
--
-- Load it once, and again after an upgrade:
--   redis-cli -x FUNCTION LOAD REPLACE < config/streams/ingest.lua
-- Then call the command by it: the key, the stream, the command, and what follows the key.
--   FCALL ingest_write 2 user:1 changes HSET name Ann
--   FCALL ingest_write 2 user:1 changes DEL
-- In a cluster both must be in one slot: user:{7} and changes:{7}. What the command returns is returned. A command that
-- fails leaves no entry.

local function write(keys, args)
  if #keys ~= 2 or #args < 1 then
    return redis.error_reply('ERR ingest_write takes a key, a stream and a command')
  end
  local reply = redis.pcall(args[1], keys[1], unpack(args, 2))
  if type(reply) == 'table' and reply['err'] then
    return reply
  end
  -- While the slot moves to another node, EXISTS is refused for a key that is not here any more.
  if redis.pcall('EXISTS', keys[1]) == 1 then
    redis.call('XADD', keys[2], '*', 'key', keys[1])
  else
    redis.call('XADD', keys[2], '*', 'key', keys[1], 'event', 'del')
  end
  return reply
end

redis.register_function('ingest_write', write)
