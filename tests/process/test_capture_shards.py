from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from engine.config import RedisSettings
from engine.redis.connection import NOTHING, RespConnection, pack
from engine.routing.byte_classes import channel_prefix
from engine.routing.slices import Slice
from engine.sandbox.valkey import ValkeyServer
from tests.shard_plan import plan_shards

KEYS = [
    b"",
    b"x" * 1_000_000,
    *(bytes([byte]) for byte in range(256)),
    *(b"\x00*[\xff]\\" + bytes([byte]) for byte in range(256)),
]
DIGITS = [b"cart:%d" % number for number in range(100)]
SCATTERED = [bytes([byte]) for byte in b"aaaaacccccegik\x7f\x7f\x7f\x81\x81\x81\xff]-^"]


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer(config={"notify-keyspace-events": "Kh"}) as running:
        yield running


@pytest.mark.parametrize("sample", [[], DIGITS, SCATTERED], ids=["blind", "digits", "scattered"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 16, 64])
def test_the_server_delivers_each_key_once(server: ValkeyServer, count: int, sample: list[bytes]) -> None:
    """A real server sends each key's event to the connection of the shard that owns it, once, and to no other."""
    redis = RedisSettings(url=server.url)
    plan = plan_shards(count, 0, sample)
    shards = [RespConnection.open(redis, name="shard", protocol=2) for _ in plan]
    writer = RespConnection.open(redis, name="writer")
    try:
        for shard, connection in zip(plan, shards, strict=True):
            connection.pipeline(pack("PSUBSCRIBE", *shard.patterns), len(shard.patterns))
        writer.pipeline(b"".join(pack("HSET", key, "a", "b") for key in KEYS), len(KEYS))
        heard = [keys_until_pong(connection) for connection in shards]
    finally:
        for connection in (*shards, writer):
            connection.close()
    assert sum(heard, Counter()) == Counter(KEYS)
    for shard, keys in zip(plan, heard, strict=True):
        assert all(map(shard.owns, keys))


@pytest.mark.parametrize(("slices", "count"), [(2, 1), (3, 2), (5, 3), (16, 1)])
def test_the_server_delivers_each_key_to_one_slice(server: ValkeyServer, slices: int, count: int) -> None:
    """Several hosts' patterns together get each key's event once; a mapping hash's, every host does."""
    redis = RedisSettings(url=server.url)
    plans = [plan_shards(count, 0, DIGITS, Slice(index, slices), b"__map[p]__") for index in range(slices)]
    shards = [[RespConnection.open(redis, name="shard", protocol=2) for _ in plan] for plan in plans]
    writer = RespConnection.open(redis, name="writer")
    mapping = b"__map[p]__carts"
    try:
        for plan, connections in zip(plans, shards, strict=True):
            for shard, connection in zip(plan, connections, strict=True):
                connection.pipeline(pack("PSUBSCRIBE", *shard.patterns), len(shard.patterns))
        writer.pipeline(b"".join(pack("HSET", key, "a", "b") for key in [*KEYS, mapping]), len(KEYS) + 1)
        heard = [sum(map(keys_until_pong, connections), Counter()) for connections in shards]
    finally:
        for connection in (*(one for host in shards for one in host), writer):
            connection.close()
    assert all(host.pop(mapping) for host in heard)
    assert sum(heard, Counter()) == Counter(KEYS)
    for index, host in enumerate(heard):
        assert all(map(Slice(index, slices).owns, host))


def keys_until_pong(connection: RespConnection) -> Counter[bytes]:
    connection.send(pack("PING", "end"))
    keys: Counter[bytes] = Counter()
    while (reply := connection.reply()) is NOTHING or reply[0] != b"pong":
        if reply is NOTHING:
            connection.receive()
        else:
            keys[reply[2].removeprefix(channel_prefix(0))] += 1
    return keys
