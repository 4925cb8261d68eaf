-- The same as ingest.lua for servers that know no functions (Redis 6): a script for EVAL, or for SCRIPT LOAD and EVALSHA.
--   redis-cli --eval config/streams/ingest_eval.lua user:1 changes , HSET name Ann

if #KEYS ~= 2 or #ARGV < 1 then
  return redis.error_reply('ERR ingest_eval.lua takes a key, a stream and a command')
end
local reply = redis.pcall(ARGV[1], KEYS[1], unpack(ARGV, 2))
if type(reply) == 'table' and reply['err'] then
  return reply
end
-- While the slot moves to another node, EXISTS is refused for a key that is not here any more.
if redis.pcall('EXISTS', KEYS[1]) == 1 then
  redis.call('XADD', KEYS[2], '*', 'key', KEYS[1])
else
  redis.call('XADD', KEYS[2], '*', 'key', KEYS[1], 'event', 'del')
end
return reply
