from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import redis

from engine.config import RedisSettings
from engine.delivery.reading.fetch import Fetcher
from engine.delivery.reading.questions import EXPIRES_AT, EXPIRES_IN, Fetched
from engine.errors import RedisRefused, RedisUnreachable
from engine.sandbox.valkey import ValkeyServer

FAST = {"connect_timeout_ms": 2_000, "read_timeout_ms": 20_000}


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def client(server: ValkeyServer) -> Iterator[Any]:
    client = redis.Redis(port=server.port)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def fetcher(server: ValkeyServer) -> Iterator[Fetcher]:
    fetcher = Fetcher(RedisSettings(url=server.url, **FAST), 0, "test")
    yield fetcher
    fetcher.close()


def one(fetcher: Fetcher, key: bytes, event: str) -> Fetched:
    (value,) = fetcher.fetch([(key, event)])
    return value


def seen(value: Fetched) -> tuple[str, str | None, bool, str]:
    return value.type, value.body, value.retyped, value.error


def fill(client: Any) -> None:
    client.hset("hash", mapping={"b": "2", "a": "1"})
    client.set("string", "text")
    client.set("empty", "")
    client.rpush("list", "b", "a", "b")
    client.sadd("set", "c", "a", "b")
    client.zadd("zset", {"later": 2.5, "first": -1, "last": float("inf"), "big": 2.0**60})
    client.xadd("stream", {"f": "v", "g": "w"}, id="1-1")
    client.xadd("drained", {"f": "v"}, id="1-1")
    client.xtrim("drained", maxlen=0)
    client.pfadd("log", "x")


EXPECTED = {
    "hash": ("hash", '{"a":"1","b":"2"}'),
    "string": ("string", '"text"'),
    "empty": ("string", '""'),
    "list": ("list", '["b","a","b"]'),
    "set": ("set", '["a","b","c"]'),
    "zset": ("zset", '[["first",-1],["later",2.5],["big",1.152921504606847e+18],["last","inf"]]'),
    "stream": ("stream", '[["1-1",[["f","v"],["g","w"]]]]'),
    "drained": ("stream", "[]"),
    "gone": ("none", None),
}


@pytest.mark.parametrize(
    ("key", "event"),
    [
        ("hash", "hincrby"), ("string", "append"), ("empty", "set"), ("list", "lpush"), ("set", "sadd"),
        ("zset", "zincr"), ("stream", "xadd"), ("drained", "xtrim"), ("gone", "hset"), ("gone", "set"),
        ("gone", "xadd"), ("gone", "zrem"), ("gone", "lpop"), ("gone", "srem"),
    ],
)  # fmt: skip
def test_each_type_is_read_as_its_event_says(client: Any, fetcher: Fetcher, key: str, event: str):
    """A key of the type that its event implies is read whole; one that is gone has no body and no type."""
    fill(client)
    assert seen(one(fetcher, key.encode(), event)) == (*EXPECTED[key], False, "")


@pytest.mark.parametrize("event", ["rename_to", "copy_to", "restore", "expire", "del", "an event of tomorrow"])
def test_an_event_that_implies_no_type(client: Any, fetcher: Fetcher, event: str):
    """Where the event says nothing of the type, the server does: every type is read, none counts as retyped."""
    fill(client)
    values = fetcher.fetch([(key.encode(), event) for key in EXPECTED])
    assert [seen(value) for value in values] == [(*expected, False, "") for expected in EXPECTED.values()]


def test_a_key_of_another_type_than_its_event(client: Any, fetcher: Fetcher):
    """A key that was overwritten by another type since its event is read as what it is, and marked."""
    fill(client)
    events = ["hset", "set", "lpush", "sadd", "zadd", "xadd", "json.set"]
    for key, (kind, body) in EXPECTED.items():
        for value, event in zip(fetcher.fetch([(key.encode(), event) for event in events]), events, strict=True):
            if event == "json.set":
                assert "unknown command" in value.error
            elif body is not None:
                fits = {"hset": "hash", "set": "string", "lpush": "list", "sadd": "set", "zadd": "zset"}
                assert seen(value) == (kind, body, fits.get(event, "stream") != kind, "")


def test_order_and_neighbours(client: Any, fetcher: Fetcher):
    """Answers come in the order of the questions, whatever each of them took, the same key twice included."""
    fill(client)
    asked = [("hash", "hset"), ("list", "hset"), ("gone", "set"), ("drained", "xadd"), ("hash", "del"), ("set", "sadd")]
    values = fetcher.fetch([(key.encode(), event) for key, event in asked])
    assert [(value.key.decode(), value.type, value.body) for value in values] == [
        (key, *EXPECTED[key]) for key, _ in asked
    ]
    assert fetcher.fetch([]) == []


def test_any_bytes(client: Any, fetcher: Fetcher):
    """Keys and values of any bytes, the empty key too, are read without loss, and marked where not UTF-8."""
    every = bytes(range(256))
    for key in (b"", b"\r\n$3\r\n", every, "grüße".encode()):
        client.hset(key, mapping={every: b"\xff", b"plain": b"text"})
        value = one(fetcher, key, "hset")
        assert value.body_encoding == "base64"
        assert value.body is not None
        fields = {base64.b64decode(name): base64.b64decode(text) for name, text in orjson.loads(value.body).items()}
        assert fields == {every: b"\xff", b"plain": b"text"}
    client.set(b"s", b"\x00" + "é😀".encode())
    value = one(fetcher, b"s", "set")
    assert (value.body_encoding, orjson.loads(value.body or "")) == ("", "\x00é😀")


def test_versions_grow(client: Any, fetcher: Fetcher):
    """Versions are microseconds of the server's clock; a later fetch of a key always has a higher one."""
    before = client.time()
    versions = []
    for number in range(200):
        client.hset("k", "n", number)
        value = one(fetcher, b"k", "hset" if number % 2 else "del")
        assert value.body == f'{{"n":"{number}"}}'
        versions.append(value.version)
    after = client.time()
    assert versions == sorted(set(versions))
    assert before[0] * 1_000_000 + before[1] <= versions[0]
    assert versions[-1] <= after[0] * 1_000_000 + after[1]


@pytest.mark.parametrize("question", [EXPIRES_AT, EXPIRES_IN])
def test_when_keys_expire(client: Any, fetcher: Fetcher, question: str):
    """The moment is told in Unix time, also where the server only knows how long it is; else it is 0."""
    moment_ms = round(time.time() * 1_000) + 3_600_000
    client.set("expires", "v", pxat=moment_ms)
    client.hset("stays", "f", "v")
    fetcher._expiry_question = question
    keys = [(b"expires", "expire"), (b"stays", "hset"), (b"gone", "set")]
    told = [value.expires_at_ms for value in fetcher.fetch(keys, include_expiry=True)]
    assert told[1:] == [0, 0]
    assert abs(told[0] - moment_ms) <= (0 if question == EXPIRES_AT else 50)
    assert [value.expires_at_ms for value in fetcher.fetch(keys)] == [0, 0, 0]


def test_many_keys_with_large_values(client: Any, fetcher: Fetcher):
    """A pipeline of thousands of long commands with large replies comes through: nobody waits for the other."""
    pad = b"k" * 2_000
    text = "x" * 40_000
    for number in range(2_000):
        client.set(pad + b"%d" % number, text)
    keys = [(pad + b"%d" % number, "set") for number in range(2_000)]
    whole = Fetcher(fetcher._redis, 0, "test", keys_max=2_000, reply_bytes_max=1 << 30)
    for reader in (whole, fetcher):
        values = reader.fetch(keys)
        assert [value.key for value in values] == [key for key, _ in keys]
        assert {value.body for value in values} == {f'"{text}"'}
    whole.close()


def test_a_value_of_a_megabyte(client: Any, fetcher: Fetcher):
    """A value far larger than one read of the socket is read whole."""
    text = "x" * 1_048_576
    client.hset("large", mapping={"a": text, "b": "2"})
    assert one(fetcher, b"large", "hset").body == f'{{"a":"{text}","b":"2"}}'


def test_values_past_the_bound(server: ValkeyServer, client: Any):
    """Replies past the bound are read in smaller pipelines; a key alone past it is an error, its neighbours are not."""
    client.set("giant", "x" * 3_000_000)
    for number in range(40):
        client.set(f"k{number}", "x" * 100_000)
    keys = [(b"k%d" % number, "set") for number in range(40)]
    keys.insert(17, (b"giant", "set"))
    fetcher = Fetcher(RedisSettings(url=server.url, **FAST), 0, "test", reply_bytes_max=1_000_000)
    for _ in range(2):
        values = fetcher.fetch(keys)
        assert [value.key for value in values] == [key for key, _ in keys]
        assert [value.key for value in values if value.error] == [b"giant"]
        assert "larger than 1000000 bytes" in values[17].error
        assert all(len(value.body or "") == 100_002 for value in values if value.key != b"giant")
    fetcher.close()


def test_the_size_that_fits_is_kept(server: ValkeyServer, client: Any):
    """Once pipelines fit the values, the next fetch gives none up; for small values they grow again."""
    for number in range(40):
        client.set(f"k{number}", "x" * 100_000)
        client.set(f"s{number}", "x")
    large, small = ([(prefix + b"%d" % number, "set") for number in range(40)] for prefix in (b"k", b"s"))
    fetcher = Fetcher(RedisSettings(url=server.url, **FAST), 0, "test", keys_max=40, reply_bytes_max=1_000_000)
    fetcher.fetch(large)
    connections = client.info("stats")["total_connections_received"]
    assert len(fetcher.fetch(large)) == 40
    assert client.info("stats")["total_connections_received"] == connections
    fetcher.fetch(small)
    before = client.info("commandstats")["cmdstat_time"]["calls"]
    fetcher.fetch(small)
    assert client.info("commandstats")["cmdstat_time"]["calls"] == before + 1
    fetcher.close()


def test_stopping_where_a_payload_is_full(server: ValkeyServer, client: Any):
    """With a bound on bodies, the first keys are returned: enough of them, at least one, never all of a large lot."""
    for number in range(100):
        client.set(f"k{number}", "x" * 10_000)
    keys = [(b"k%d" % number, "set") for number in range(100)]
    fetcher = Fetcher(RedisSettings(url=server.url, **FAST), 0, "test", keys_max=10)
    values = fetcher.fetch(keys, body_chars_max=150_000)
    assert [value.key for value in values] == [key for key, _ in keys[:20]]
    assert len(fetcher.fetch(keys, body_chars_max=1)) == 10
    assert len(fetcher.fetch(keys, body_chars_max=10_000_000)) == 100
    fetcher.close()


def test_a_key_that_may_not_be_read(server: ValkeyServer, client: Any):
    """A key out of the user's rights is an error of its own; the other keys are read."""
    client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "+@all", "%R~open:*")
    client.hset("open:1", "a", "1")
    client.hset("shut:1", "a", "1")
    fetcher = Fetcher(RedisSettings(url=server.url, username="reader", password="pw"), 0, "test")
    shut, opened = fetcher.fetch([(b"shut:1", "hset"), (b"open:1", "hset")])
    assert (shut.body, shut.error.split()[0]) == (None, "NOPERM")
    assert seen(opened) == ("hash", '{"a":"1"}', False, "")
    fetcher.close()
    client.execute_command("ACL", "DELUSER", "reader")


def test_a_command_that_may_not_be_run(server: ValkeyServer, client: Any):
    """A denied command is a right to grant, told as such: no key is given up on for it."""
    client.execute_command("ACL", "SETUSER", "blind", "on", ">pw", "+@all", "-hgetall", "~*")
    fetcher = Fetcher(RedisSettings(url=server.url, username="blind", password="pw"), 0, "test")
    with pytest.raises(RedisRefused, match="hgetall"):
        fetcher.fetch([(b"k", "hset")])
    client.execute_command("ACL", "DELUSER", "blind")


def test_a_server_that_may_not_tell_its_time(server: ValkeyServer, client: Any):
    """Without TIME there are no versions: that is refused with its remedy, not papered over."""
    client.execute_command("ACL", "SETUSER", "timeless", "on", ">pw", "+@all", "-time", "~*")
    fetcher = Fetcher(RedisSettings(url=server.url, username="timeless", password="pw"), 0, "test")
    with pytest.raises(RedisRefused, match=r"\+time"):
        fetcher.fetch([(b"k", "hset")])
    client.execute_command("ACL", "DELUSER", "timeless")


def test_databases(server: ValkeyServer, client: Any):
    """The fetcher reads the database that it was given, not the one in the URL."""
    with redis.Redis(port=server.port, db=3) as third:
        third.hset("k", "in", "three")
    fetcher = Fetcher(RedisSettings(url=server.url), 3, "test")
    assert one(fetcher, b"k", "hset").body == '{"in":"three"}'
    fetcher.close()


def test_a_server_that_restarts():
    """While the server is away, fetches say so; when it is back, they work again, with higher versions."""
    with ValkeyServer() as server:
        client = redis.Redis(port=server.port)
        client.hset("k", "a", "1")
        fetcher = Fetcher(RedisSettings(url=server.url), 0, "test")
        first = one(fetcher, b"k", "hset")
        server.kill()
        for _ in range(2):
            with pytest.raises(RedisUnreachable):
                fetcher.fetch([(b"k", "hset")])
        server.start()
        with redis.Redis(port=server.port) as again:
            again.hset("k", "a", "2")
        second = one(fetcher, b"k", "hset")
        assert second.body == '{"a":"2"}'
        assert second.version > first.version
        fetcher.close()


def test_a_connection_that_was_closed_while_idle(client: Any, fetcher: Fetcher):
    """A connection that the server closed between two fetches is replaced without a failure."""
    client.hset("k", "a", "1")
    one(fetcher, b"k", "hset")
    (mine,) = [line["id"] for line in client.client_list() if line["name"] == "test"]
    client.client_kill_filter(_id=mine)
    assert one(fetcher, b"k", "hset").body == '{"a":"1"}'
