"""The table of write commands: `CASES`, and `EXCEPTIONS`, commands that it leaves out, with the reason."""

from __future__ import annotations

from tests.commands.case import REDIS_8, SINCE_7, VALKEY, WITH_FIELD_EXPIRY, Case, parse

STRINGS = """
set: SET @a ~embstr
set: SET @a ~int >> SET @a 8
set: SET @a 9999 >> SET @a 10000
set: SET @a ~raw >> SET @a ~empty
set: HSET @a f 1 >> SET @a ~bin
set: SET @a 1 EX 1000 >> SET @a 2 KEEPTTL
set: SET @a 1 >> SET @a 2 XX GET
set: SET @a 1 >> SET @a 2 PX 60
set: SET @a 1 >> SET @a 2 PXAT 1
setnx: SETNX @a 1
setex: SET @a 1 >> SETEX @a 1000 2
psetex: SET @a 1 >> PSETEX @a 60 2
mset: SET @a 1 >> MSET @a 2 @b 3
msetnx: MSETNX @a 2 @b 3
getset: SET @a 1 >> GETSET @a 2
getdel: SET @a 1 >> GETDEL @a
getex: SET @a 1 >> GETEX @a PX 60
getex: SET @a 1 >> GETEX @a PXAT 1
getex: SET @a 1 EX 1000 >> GETEX @a PERSIST
append: SET @a ~embstr >> APPEND @a more
append: SET @a ~int >> APPEND @a 1
append: APPEND @a new
setrange: SET @a ~raw >> SETRANGE @a 50 x
incr: SET @a ~int >> INCR @a
incr: INCR @a
incrby: SET @a ~long >> INCRBY @a 5
decr: SET @a 0 >> DECR @a
decrby: SET @a ~int >> DECRBY @a 100000
incrbyfloat: SET @a 1.5 >> INCRBYFLOAT @a 0.25
setbit: SET @a a >> SETBIT @a 7 1
bitop: SET @a abc | SET @b ~raw >> BITOP XOR @c @a @b
bitop: SET @c 1 >> BITOP AND @c @a @b
bitop: RPUSH @c 1 | SET @a x >> BITOP NOT @c @a
bitfield: SET @a a >> BITFIELD @a SET u8 0 98
pfadd: PFADD @a x >> PFADD @a y z
pfmerge: PFADD @a x | PFADD @b y >> PFMERGE @c @a @b
pfmerge: PFADD @a x | PFADD @b y >> PFMERGE @a @b
"""

HASHES = """
hset: HSET @a f 1 >> HSET @a f 2 g ~bin
hset: HSET @a f ~raw
hmset: HSET @a f 1 >> HMSET @a f 2
hsetnx: HSET @a f 1 >> HSETNX @a g 2
hincrby: HSET @a f 1 >> HINCRBY @a f 5
hincrby: HINCRBY @a f 5
hincrbyfloat: HSET @a f 1 >> HINCRBYFLOAT @a f 0.5
hdel: HSET @a f 1 g 2 >> HDEL @a f
hdel: HSET @a f 1 g 2 >> HDEL @a f g
"""

HASHES_WITH_EXPIRY = """
hexpire: HSET @a f 1 g 2 >> HEXPIRE @a 1000 FIELDS 1 f
hexpire: HSET @a f 1 g 2 >> HEXPIRE @a 0 FIELDS 1 f
hexpireat: HSET @a f 1 g 2 >> HEXPIREAT @a 1 FIELDS 1 f
hexpireat: HSET @a f 1 >> HEXPIREAT @a 1 FIELDS 1 f
hpexpire: HSET @a f 1 g 2 >> HPEXPIRE @a 60 FIELDS 1 f
hpexpire: HSET @a f 1 >> HPEXPIRE @a 60 FIELDS 1 f
hpexpireat: HSET @a f 1 g 2 >> HPEXPIREAT @a 1 FIELDS 2 f g
hpersist: HSET @a f 1 | HEXPIRE @a 1000 FIELDS 1 f >> HPERSIST @a FIELDS 1 f
hsetex: HSET @a f 1 >> HSETEX @a EX 1000 FIELDS 1 g 2
hsetex: HSET @a f 1 g 2 >> HSETEX @a PX 60 FIELDS 1 g 3
hsetex: HSET @a f 1 g 2 >> HSETEX @a PXAT 1 FIELDS 1 g 3
hsetex: HSET @a f 1 >> HSETEX @a PXAT 1 FIELDS 1 f 3
hsetex: HSETEX @a PX 60 FIELDS 1 f 3
hgetex: HSET @a f 1 g 2 >> HGETEX @a PX 60 FIELDS 1 f
hgetex: HSET @a f 1 g 2 >> HGETEX @a PXAT 1 FIELDS 1 f
hgetex: HSET @a f 1 >> HGETEX @a PXAT 1 FIELDS 1 f
hgetdel: HSET @a f 1 g 2 >> HGETDEL @a FIELDS 1 f
hgetdel: HSET @a f 1 >> HGETDEL @a FIELDS 1 f
"""

LISTS = """
lpush: RPUSH @a 1 >> LPUSH @a ~raw ~bin
rpush: RPUSH @a ~long
lpushx: RPUSH @a 1 >> LPUSHX @a 2
rpushx: RPUSH @a 1 >> RPUSHX @a 2
linsert: RPUSH @a 1 2 >> LINSERT @a BEFORE 2 x
lset: RPUSH @a 1 2 >> LSET @a 0 x
lrem: RPUSH @a 1 2 1 >> LREM @a 0 1
lrem: RPUSH @a 1 1 >> LREM @a 0 1
ltrim: RPUSH @a 1 2 3 >> LTRIM @a 1 1
ltrim: RPUSH @a 1 2 3 >> LTRIM @a 5 9
lpop: RPUSH @a 1 2 >> LPOP @a
lpop: RPUSH @a 1 2 >> LPOP @a 9
rpop: RPUSH @a 1 2 >> RPOP @a
rpop: RPUSH @a 1 >> RPOP @a
rpoplpush: RPUSH @a 1 2 >> RPOPLPUSH @a @b
rpoplpush: RPUSH @a 1 2 3 >> RPOPLPUSH @a @a
rpoplpush: RPUSH @a 1 | RPUSH @b 2 >> RPOPLPUSH @a @b
lmove: RPUSH @a 1 2 >> LMOVE @a @b LEFT RIGHT
lmove: RPUSH @a 1 >> LMOVE @a @b LEFT RIGHT
lmove: RPUSH @a 1 2 3 >> LMOVE @a @a LEFT RIGHT
blpop: RPUSH @a 1 2 >> BLPOP @a 5
blpop: RPUSH @a 1 >> BLPOP @b @a 5
blpop: BLOCKED BLPOP @a 30 | RPUSH @a 1 2
brpop: RPUSH @a 1 >> BRPOP @a 5
brpop: BLOCKED BRPOP @a 30 | RPUSH @a 1
brpoplpush: RPUSH @a 1 >> BRPOPLPUSH @a @b 5
brpoplpush: BLOCKED BRPOPLPUSH @a @b 30 | RPUSH @a 1
blmove: RPUSH @a 1 2 >> BLMOVE @a @b LEFT RIGHT 5
blmove: BLOCKED BLMOVE @a @b LEFT RIGHT 30 | RPUSH @a 1 2
sort: RPUSH @a 3 1 2 >> SORT @a STORE @b
sort: SADD @a 3 1 | SET @b old >> SORT @a STORE @b
sort: SET @b old >> SORT @a STORE @b
"""

LISTS_SINCE_7 = """
lmpop: RPUSH @a 1 2 >> LMPOP 2 @b @a LEFT
lmpop: RPUSH @a 1 2 >> LMPOP 1 @a RIGHT COUNT 9
blmpop: RPUSH @a 1 2 >> BLMPOP 5 1 @a LEFT COUNT 2
blmpop: BLOCKED BLMPOP 30 1 @a LEFT | RPUSH @a 1 2
zmpop: ZADD @a 1 x 2 y >> ZMPOP 1 @a MIN
zmpop: ZADD @a 1 x >> ZMPOP 1 @a MAX
bzmpop: ZADD @a 1 x 2 y >> BZMPOP 5 1 @a MAX
bzmpop: BLOCKED BZMPOP 30 1 @a MIN | ZADD @a 1 x
expire: SET @a 1 EX 1000 >> EXPIRE @a -1 LT
"""

SETS = """
sadd: SADD @a 1 2 >> SADD @a x
sadd: SADD @a ~bin ~raw
srem: SADD @a 1 2 >> SREM @a 1
srem: SADD @a 1 2 >> SREM @a 1 2
spop: SADD @a 1 2 3 >> SPOP @a
spop: SADD @a 1 2 3 >> SPOP @a 2
spop: SADD @a 1 2 >> SPOP @a 9
spop: SADD @a 1 >> SPOP @a
smove: SADD @a 1 2 | SADD @b 3 >> SMOVE @a @b 1
smove: SADD @a 1 >> SMOVE @a @b 1
sinterstore: SADD @a 1 2 | SADD @b 2 3 >> SINTERSTORE @c @a @b
sinterstore: SADD @a 1 | SADD @b 2 | SADD @c 3 >> SINTERSTORE @c @a @b
sunionstore: SADD @a 1 | SADD @b x >> SUNIONSTORE @c @a @b
sunionstore: SADD @a 1 | SET @c s >> SUNIONSTORE @c @a
sunionstore: SADD @c 1 >> SUNIONSTORE @c @a
sdiffstore: SADD @a 1 2 | SADD @b 2 >> SDIFFSTORE @a @a @b
sdiffstore: SADD @a 1 | SADD @c 5 >> SDIFFSTORE @c @a @a
"""

SORTED_SETS = """
zadd: ZADD @a 1 x >> ZADD @a 2.5 x inf y
zadd: ZADD @a 1 x >> ZADD @a GT CH 5 x
zadd: ZADD @a 1 x >> ZADD @a INCR 5 x
zincrby: ZADD @a 1 x >> ZINCRBY @a 0.5 x
zincrby: ZINCRBY @a 1 x
zrem: ZADD @a 1 x 2 y >> ZREM @a x
zrem: ZADD @a 1 x >> ZREM @a x
zremrangebyrank: ZADD @a 1 x 2 y >> ZREMRANGEBYRANK @a 0 0
zremrangebyrank: ZADD @a 1 x 2 y >> ZREMRANGEBYRANK @a 0 -1
zremrangebyscore: ZADD @a 1 x 2 y >> ZREMRANGEBYSCORE @a 1 1
zremrangebyscore: ZADD @a 1 x >> ZREMRANGEBYSCORE @a -inf inf
zremrangebylex: ZADD @a 0 x 0 y >> ZREMRANGEBYLEX @a [x [x
zremrangebylex: ZADD @a 0 x >> ZREMRANGEBYLEX @a - +
zpopmin: ZADD @a 1 x 2 y >> ZPOPMIN @a
zpopmin: ZADD @a 1 x >> ZPOPMIN @a 9
zpopmax: ZADD @a 1 x 2 y >> ZPOPMAX @a
bzpopmin: ZADD @a 1 x >> BZPOPMIN @a 5
bzpopmin: BLOCKED BZPOPMIN @a 30 | ZADD @a 1 x 2 y
bzpopmax: ZADD @a 1 x 2 y >> BZPOPMAX @a 5
bzpopmax: BLOCKED BZPOPMAX @a 30 | ZADD @a 1 x
zunionstore: ZADD @a 1 x | ZADD @b 2 y >> ZUNIONSTORE @c 2 @a @b
zunionstore: HSET @c f 1 | ZADD @a 1 x >> ZUNIONSTORE @c 1 @a WEIGHTS 3
zinterstore: ZADD @a 1 x | ZADD @b 2 x >> ZINTERSTORE @a 2 @a @b
zinterstore: ZADD @a 1 x | ZADD @c 2 y >> ZINTERSTORE @c 2 @a @b
zdiffstore: ZADD @a 1 x 2 y | ZADD @b 1 x >> ZDIFFSTORE @c 2 @a @b
zdiffstore: ZADD @a 1 x | ZADD @c 1 y >> ZDIFFSTORE @c 2 @a @a
zrangestore: ZADD @a 1 x 2 y >> ZRANGESTORE @b @a 0 0
zrangestore: ZADD @a 1 x | ZADD @b 2 y >> ZRANGESTORE @b @a 5 9
geoadd: GEOADD @a 13.3 38.1 x >> GEOADD @a 15.1 37.5 y
georadius: GEOADD @a 13.3 38.1 x 15.1 37.5 y >> GEORADIUS @a 15 37 200 km STORE @b
georadius: GEOADD @a 13.3 38.1 x | SET @b old >> GEORADIUS @a 99 9 1 m STORE @b
georadiusbymember: GEOADD @a 13.3 38.1 x >> GEORADIUSBYMEMBER @a x 9 km STOREDIST @b
geosearchstore: GEOADD @a 13.3 38.1 x >> GEOSEARCHSTORE @b @a FROMMEMBER x BYRADIUS 9 km
geosearchstore: GEOADD @a 13.3 38.1 x | ZADD @b 1 y >> GEOSEARCHSTORE @b @a FROMLONLAT 99 9 BYBOX 1 1 m
"""

STREAMS = """
xadd: XADD @a 1-1 f v
xadd: XADD @a 1-1 f v >> XADD @a MAXLEN 1 2-1 f ~bin
xadd: XADD @a 1-1 f v >> XADD @a NOMKSTREAM 2-1 f w g x
xdel: XADD @a 1-1 f v | XADD @a 2-1 f v >> XDEL @a 1-1
xdel: XADD @a 1-1 f v >> XDEL @a 1-1
xtrim: XADD @a 1-1 f v | XADD @a 2-1 f v >> XTRIM @a MINID 2
xtrim: XADD @a 1-1 f v >> XTRIM @a MAXLEN 0
xsetid: XADD @a 1-1 f v >> XSETID @a 9-1
xgroup|createconsumer: XADD @a 1-1 f v | XGROUP CREATE @a g 0 >> XGROUP CREATECONSUMER @a g c
xgroup|delconsumer: XADD @a 1-1 f v | XGROUP CREATE @a g 0 | XGROUP CREATECONSUMER @a g c >> XGROUP DELCONSUMER @a g c
xgroup|destroy: XADD @a 1-1 f v | XGROUP CREATE @a g 0 >> XGROUP DESTROY @a g
xgroup|setid: XADD @a 1-1 f v | XGROUP CREATE @a g 0 >> XGROUP SETID @a g 1-1
xgroup|create: XADD @a 1-1 f v >> XGROUP CREATE @a g 0
xreadgroup: XADD @a 1-1 f v | XGROUP CREATE @a g 0 >> XREADGROUP GROUP g c STREAMS @a >
xack: XADD @a 1-1 f v | XGROUP CREATE @a g 0 | XREADGROUP GROUP g c STREAMS @a > >> XACK @a g 1-1
xclaim: XADD @a 1-1 f v | XGROUP CREATE @a g 0 | XREADGROUP GROUP g c STREAMS @a > >> XCLAIM @a g d 0 1-1
xautoclaim: XADD @a 1-1 f v | XGROUP CREATE @a g 0 | XREADGROUP GROUP g c STREAMS @a > >> XAUTOCLAIM @a g d 0 0
"""

STREAMS_OF_REDIS_8 = """
xackdel: XADD @a 1-1 f v | XGROUP CREATE @a g 0 | XREADGROUP GROUP g c STREAMS @a > >> XACKDEL @a g IDS 1 1-1
xdelex: XADD @a 1-1 f v | XADD @a 2-1 f v >> XDELEX @a IDS 1 1-1
bitop: SET @a abc | SET @b a >> BITOP DIFF @c @a @b
"""

MADE_BY_A_GROUP = """
xgroup|create: XGROUP CREATE @a g $ MKSTREAM
"""
"""The event is that of the group, which ``"*"`` does not take."""

OF_VALKEY = """
delifeq: SET @a 1 >> DELIFEQ @a 1
msetex: SET @a 1 >> MSETEX 2 @a 2 @b 3 PX 60
msetex: MSETEX 1 @a 2
set: SET @a 1 >> SET @a 2 IFEQ 1
"""

GENERIC = """
del: SET @a 1 | HSET @b f 1 >> DEL @a @b
unlink: SET @a ~raw | RPUSH @b 1 >> UNLINK @a @b
rename: SET @a 1 >> RENAME @a @b
rename: HSET @a f 1 | SET @b 2 >> RENAME @a @b
renamenx: SADD @a 1 >> RENAMENX @a @b
copy: ZADD @a 1 x >> COPY @a @b
copy: HSET @a f 1 | RPUSH @b 1 >> COPY @a @b REPLACE
copy: DB1 SET @a 1 >> DB1 COPY @a @b DB 0
move: SET @a 1 >> MOVE @a 1
move: DB1 HSET @a f 1 >> DB1 MOVE @a 0
restore: HSET @a f 1 >> RESTORE @b 0 ~dump:@a
restore: SET @a 1 | SET @b 2 >> RESTORE @b 0 ~dump:@a REPLACE
restore: SET @a 1 | SET @b 2 >> RESTORE @b 60 ~dump:@a REPLACE
restore: SET @a 1 | SET @b 2 >> RESTORE @b 1 ~dump:@a REPLACE ABSTTL
restore-asking: SADD @a 1 >> RESTORE-ASKING @b 0 ~dump:@a
migrate: SET @a 1 >> MIGRATE 127.0.0.1 ~port @a 0 5000
migrate: SET @a 1 >> MIGRATE 127.0.0.1 ~port @a 0 5000 COPY
expire: SET @a 1 >> EXPIRE @a 1000
expire: SET @a 1 >> EXPIRE @a -1
expireat: HSET @a f 1 >> EXPIREAT @a 1
pexpire: SET @a 1 >> PEXPIRE @a 60
pexpire: RPUSH @a 1 >> PEXPIRE @a -1
pexpireat: SADD @a 1 >> PEXPIREAT @a 1
persist: SET @a 1 EX 1000 >> PERSIST @a
eval: SET @a 1 >> EVAL redis.call('DEL',KEYS[1]);return(redis.call('HSET',KEYS[1],'f','1')) 1 @a
eval: SET @a 1 >> EVAL return(redis.call('DEL',KEYS[1])) 1 @a
exec: SET @a 1 | HSET @b f 1 >> MULTI | DEL @a | RENAME @b @a | HINCRBY @a f 1 | EXEC
"""

CASES: tuple[Case, ...] = (
    *parse(STRINGS),
    *parse(HASHES),
    *parse(HASHES_WITH_EXPIRY, WITH_FIELD_EXPIRY),
    *parse(LISTS),
    *parse(LISTS_SINCE_7, SINCE_7),
    *parse(SETS),
    *parse(SORTED_SETS),
    *parse(STREAMS),
    *parse(STREAMS_OF_REDIS_8, REDIS_8),
    *parse(MADE_BY_A_GROUP, routes=("changes",)),
    *parse(OF_VALKEY, VALKEY),
    *parse(GENERIC),
)

_NO_EVENT = "nothing is published: the sentry sees its count, and the gap is repaired (tests/chaos: FLUSHALL, SWAPDB)"
_NO_KEY = "changes libraries of functions, and no key"
_VECTORS = "vector sets publish nothing and have no canonical body: the README says so"

EXCEPTIONS: dict[str, str] = {
    "flushall": _NO_EVENT,
    "flushdb": _NO_EVENT,
    "swapdb": _NO_EVENT,
    "cluster|flushslot": "for a node of a cluster, which is not captured yet",
    "function|delete": _NO_KEY,
    "function|flush": _NO_KEY,
    "function|load": _NO_KEY,
    "function|restore": _NO_KEY,
    "pfdebug": "a developer's command, which changes how a value is kept and not the value",
    "vadd": _VECTORS,
    "vrem": _VECTORS,
    "vsetattr": _VECTORS,
    "xgroup": "Redis before 7 does not tell its subcommands apart: those are in the table",
}
"""Write commands that the table leaves out, each with its reason."""
