"""A few keys of one server are read in one go; what else the replies say is judged as in any other read."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from engine.config import RedisSettings
from engine.delivery.reading import fetch, quick
from engine.delivery.reading.fetch import Fetcher, Key, Wish
from engine.delivery.reading.questions import Fetched
from engine.routing.nodes import Topology
from engine.sandbox.valkey import ValkeyServer
from tests.cluster.reading import ReadRig

EVENTS = ("hset", "set", "rpush", "sadd", "zadd", "xadd", "del", "expire")
GONE = Wish(explained=frozenset({"del"}))


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@pytest.fixture
def client(server: ValkeyServer) -> Any:
    return redis.Redis(port=server.port)


def rig(server: ValkeyServer, **settings: Any) -> ReadRig:
    where: Any = SimpleNamespace(url=server.url)
    return ReadRig(where, Topology(), **settings)


def fill(client: Any) -> list[bytes]:
    """Set a key of each type, one that holds no text, and one that is gone."""
    client.hset("hash", mapping={"b": "1", "a": "2"})
    client.hset("bytes", "f", b"\xff")
    client.set("string", "s")
    client.set("empty", "")
    client.rpush("list", "x", "y")
    client.sadd("set", "m", "n")
    client.zadd("zset", {"m": 1.5})
    client.xadd("stream", {"f": "v"}, id="1-1")
    client.xadd("hollow", {"f": "v"}, id="1-1")
    client.xtrim("hollow", maxlen=0)
    return [*client.keys(), b"gone"]


def seen(value: Fetched | None) -> tuple[object, ...]:
    assert value is not None
    return value.key, value.type, value.body, value.body_encoding, value.retyped, value.error, value.is_taken_away


@pytest.mark.parametrize("wish", [Wish(), GONE, Wish(include_expiry=True)], ids=["plain", "gone", "expiry"])
def test_a_few_keys_are_read_as_many_are(
    server: ValkeyServer, client: Any, monkeypatch: pytest.MonkeyPatch, wish: Wish
) -> None:
    """Whatever type a key has, and whatever its event implies, it is the same value by either way."""
    names, chance = fill(client), random.Random(7)
    with rig(server).connected() as reads:
        for _ in range(60):
            keys: list[Key] = [(name, chance.choice(EVENTS)) for name in chance.sample(names, chance.randint(1, 6))]
            at_once = reads.read(keys, wish)
            with monkeypatch.context() as patched:
                patched.setattr(quick, "KEYS_MAX", 0)
                slow = reads.read(keys, wish)
            assert at_once.is_whole()
            assert [*map(seen, at_once.values)] == [*map(seen, slow.values)]


@pytest.mark.parametrize("keys_max", [1, 3, 4])
def test_no_more_are_asked_for_at_once_than_may_be(server: ValkeyServer, client: Any, keys_max: int) -> None:
    """Where a pipeline may have fewer keys than a few, it has, whatever the replies to it say."""
    for number in range(4):
        client.set(f"key:{number}", "s")
    fetcher = Fetcher(RedisSettings(url=server.url), 0, "test", keys_max)
    values = fetcher.fetch([(b"key:%d" % number, "hset" if number == 2 else "set") for number in range(4)])
    assert [value.body for value in values] == ['"s"'] * 4
    fetcher.close()


def test_versions_are_given_out_once(server: ValkeyServer, client: Any) -> None:
    """Each read has a higher version than the one before; one that was begun for nothing uses none up."""
    client.hset("hash", "f", "v")
    with rig(server).connected() as reads:
        versions = []
        for event in ("hset", "expire", "set", "hset") * 5:
            (value,) = reads.read([(b"hash", event)]).values
            assert value is not None
            versions.append(value.version)
            assert reads.fetcher.version == value.version
        assert versions == sorted(set(versions))
        assert reads.reader("").versions.newest == versions[-1]


def test_a_server_that_is_late_is_taken_at_its_late_word(server: ValkeyServer, client: Any) -> None:
    """Its keys wait; what it answers then is used, and the next read has the answers to its own questions."""
    client.hset("hash", "f", "v")
    client.set("string", "s")
    with rig(server).connected() as reads:
        fetch.PATIENCE_MS = 50
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            read = reads.read([(b"hash", "hset")])
        finally:
            os.kill(server.pid, signal.SIGCONT)
        (hold,) = read.holds
        assert hold.job is not None
        assert read.values == [None]
        reads.until(lambda: hold.job.is_over, "the answer is here")
        assert [value.body for value in hold.job.found()] == ['{"f":"v"}']
        assert [value.body for value in reads.read_all([(b"string", "set")])] == ['"s"']
        assert reads.failures == 0


def test_a_connection_that_breaks_meanwhile_is_one_failure(server: ValkeyServer, client: Any) -> None:
    """Keys that were asked for in vain wait for the next connection, and are read over that."""
    client.hset("hash", "f", "v")
    with rig(server).connected() as reads:
        assert reads.read([(b"hash", "hset")]).is_whole()
        client.client_kill_filter(_type="normal", skipme=True)
        read = reads.read([(b"hash", "hset")])
        assert read.values == [None]
        assert [hold.reader for hold in read.holds] == [reads.reader("")]
        assert [value.body for value in reads.read_all([(b"hash", "hset")])] == ['{"f":"v"}']
        assert reads.failures == 1


def test_one_who_waits_is_told_of_silence(server: ValkeyServer, client: Any) -> None:
    """Without a loop there is nobody to wait later: a server that does not answer in time is unavailable."""
    client.hset("hash", "f", "v")
    fetcher = Fetcher(RedisSettings(url=server.url, read_timeout_ms=200), 0, "test")
    assert len(fetcher.fetch([(b"hash", "hset")])) == 1
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(fetch.RedisUnreachable, match="did not answer"):
            fetcher.fetch([(b"hash", "hset")])
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert [value.body for value in fetcher.fetch([(b"hash", "hset")])] == ['{"f":"v"}']
    fetcher.close()
