"""What we know of globs and events, compared with what a real server says."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest
import redis

from engine.routing.events import EVENTS_BY_CLASS, class_of, notification_flags
from engine.routing.glob import escape, matcher
from engine.sandbox.valkey import ValkeyServer

SEED = 20
# No single byte above 127: servers differ about ranges that cross from there to here.
PIECES = [b"*", b"*", b"?", b"[", b"]", b"^", b"-", b"\\", b"a", b"b", b"c", b"d", b"[a-c]", b"[^b]", b"[\x80-\xff]"]
BYTES = [b"a", b"b", b"c", b"d", b"]", b"-", b"\\", b"[", b"^", b"\x80", b"\xff"]

WRITES = """
SET s 1|APPEND s 2|SETRANGE s 1 x|INCR n|DECRBY n 2|INCRBYFLOAT n 1.5|SETBIT b 7 1|PFADD p x|MSET s 1 n 2
SETEX s 100 v|PERSIST s|EXPIRE s 100|GETSET s w|BITOP NOT b2 b|BITFIELD b SET u8 0 1
COPY s s2|RENAME s2 s3|GETDEL s3|MOVE n 1|UNLINK p
RPUSH l 3 1 2|LPUSH l 0|LSET l 0 9|LINSERT l BEFORE 9 8|LREM l 1 9|LTRIM l 0 2|LPOP l|RPOP l|RPUSH l 4|SORT l STORE l2
LMOVE l2 l LEFT RIGHT
SADD a 1 2 3|SREM a 1|SPOP a|SADD a 5 6|SINTERSTORE a2 a a|SUNIONSTORE a3 a a|SDIFFSTORE a4 a nothing|SMOVE a a2 6
HSET h f 1 g 2|HMSET h f 1|HSETNX h i 1|HINCRBY h f 1|HINCRBYFLOAT h f 1.5|HDEL h g
HEXPIRE h 100 FIELDS 1 f|HPERSIST h FIELDS 1 f
ZADD z 1 a 2 b 3 c 4 d 5 e 6 f|ZINCRBY z 1 a|ZREM z b|ZREMRANGEBYRANK z 0 0|ZREMRANGEBYSCORE z 4 4
ZREMRANGEBYLEX z [e [e|ZPOPMIN z|ZADD z 1 a 2 b|ZPOPMAX z
ZUNIONSTORE z2 1 z|ZINTERSTORE z3 1 z|ZDIFFSTORE z4 1 z|ZRANGESTORE z5 z 0 -1
GEOADD geo 13.3 38.1 x|GEOSEARCHSTORE geo2 geo FROMMEMBER x BYRADIUS 9 km
GEORADIUSBYMEMBER geo x 9 km STORE geo3
XADD t 1-1 f v|XADD t 2-1 f v|XADD t 3-1 f v|XDEL t 1-1|XTRIM t MAXLEN 1|XSETID t 9-1
XGROUP CREATE t g 0|XGROUP SETID t g 0|XGROUP CREATECONSUMER t g c|XGROUP DELCONSUMER t g c|XGROUP DESTROY t g
SET x 1 PX 1|GET missing
"""


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    with ValkeyServer() as server, redis.Redis.from_url(server.url) as connection:
        yield connection


def test_globs_match_what_the_server_matches(client: redis.Redis) -> None:
    """Each of some thousand odd patterns matches the same keys here as in a real server.

    Keys have a byte before them, as they have in a channel: alone, servers differ about the empty one.
    """
    chance = random.Random(SEED)
    keys = [b"", *{b"".join(chance.choices(BYTES, k=chance.randint(0, 5))) for _ in range(400)}]
    client.flushdb()
    client.mset({b"@" + key: b"" for key in keys})
    patterns = [b"".join(chance.choices(PIECES, k=chance.randint(0, 7))) for _ in range(2_000)]
    pipeline = client.pipeline(transaction=False)
    for pattern in patterns:
        pipeline.keys(b"@" + pattern)
    for pattern, found in zip(patterns, pipeline.execute(), strict=True):
        matches = matcher([pattern])
        assert {key for key in keys if matches(key)} == {key[1:] for key in found}, pattern


def test_escaped_keys_are_literal(client: redis.Redis) -> None:
    """The server, too, takes an escaped text as it is, whatever bytes it holds."""
    keys = [bytes([byte]) for byte in range(256)] + [b"*", b"a[b]c", b"\\", b"a-b"]
    client.flushdb()
    client.mset(dict.fromkeys(keys, b""))
    for key in keys:
        assert client.keys(escape(key)) == [key]


@pytest.mark.parametrize("letter", sorted(set(EVENTS_BY_CLASS) - {"d", "e", "m", "n"}))
def test_events_are_of_the_servers_classes(client: redis.Redis, letter: str) -> None:
    """With one class turned on, a real server publishes our events of that class, all of them, and no other."""
    wanted = {event for event in EVENTS_BY_CLASS[letter] if event != "hexpired"}
    flags = notification_flags(wanted)
    assert flags == f"K{letter}"
    heard = events_of_writes(client, flags)
    assert {event for event in heard if class_of(event) != letter} == set()
    assert wanted - heard == set()


def events_of_writes(client: redis.Redis, flags: str) -> set[str]:
    client.flushall()
    client.config_set("notify-keyspace-events", flags)
    with client.pubsub() as feed:
        feed.psubscribe("__keyspace@*__:*")
        deadline = time.monotonic() + 30
        while feed.get_message(timeout=1) is None:
            assert time.monotonic() < deadline
        for command in WRITES.replace("\n", "|").strip("|").split("|"):
            client.execute_command(*command.split())
        client.restore("restored", 0, client.dump("s"))
        while client.exists("x"):
            assert time.monotonic() < deadline
        # Published last of all: what comes before it is everything.
        client.publish("__keyspace@0__:end", "end")
        heard = set()
        while (message := feed.get_message(timeout=1)) is None or message["data"] != b"end":
            assert time.monotonic() < deadline
            if message is not None:
                heard.add(message["data"].decode())
    return heard
