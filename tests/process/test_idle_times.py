"""Narrowed repairs on real servers, where idle times mislead: what changed in a gap is found all the same."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from engine.capture.dirty import DirtyKeys
from engine.capture.feed.repair import Repair
from engine.capture.feed.subscription import Subscription
from engine.capture.watch.sentry import Sentry
from engine.capture.watch.sight import Sight
from engine.clock import monotonic_ms
from engine.config import CaptureSettings, RedisSettings, RouteSettings
from engine.model import Missed
from engine.redis.connection import RespConnection
from engine.ring.counters import Board
from engine.routing.routes import RouteTable
from engine.sandbox.valkey import ValkeyServer
from tests.capture_rig import feed_of, step_of
from tests.servers import chosen, every_server, server_params
from tests.shard_plan import plan_shards
from tests.support import wait_for

STEPS_MAX = 2_000
DEBUG = {"enable-debug-command": "yes"}
NEVER_NARROWED = "redis-6.2"
SIZES = {
    "small int": 7,
    "long int": 123_456_789_012,
    "embedded": "x" * 20,
    "longer": "x" * 60,
    "raw": "x" * 3_000,
    "large": "x" * 70_000,
}
"""Values of strings that servers keep in different ways."""


class Watch:
    """What a listener knows of a server, and a repair of what it missed."""

    def __init__(self, server: ValkeyServer) -> None:
        self._settings = RedisSettings(url=server.url)
        self._sentry, self._sight = Sentry.begin(RespConnection.open(self._settings, name="test", protocol=2))
        self.missed = Missed(0)
        self.begin_gap()

    def close(self) -> None:
        self._sentry.close()

    def look(self) -> Sight:
        self._sentry.ask()
        sight = wait_for(self._sentry.poll, "a look")
        assert isinstance(sight, Sight)
        return sight

    def begin_gap(self) -> None:
        asked_ms = monotonic_ms()
        sight = self.look()
        self.missed = Missed(sight.server_ms, sight.mark, clock_ms=sight.server_ms - asked_ms)

    def repaired(self, sight: Sight | None = None) -> set[bytes]:
        """Return the keys that a repair of the gap marks, which begins after this look."""
        shard, table = plan_shards(1, 0, ())[0], RouteTable.build([RouteSettings("all", "f")])
        settings = CaptureSettings(repair_keys_per_s_max=10_000_000)
        repair = Repair(
            Subscription(self._settings, 0, feed_of(shard), 0, 65_536), table, b"", settings, Board(1).row(0)
        )
        dirty = DirtyKeys(prefix_bytes=15, invokers=1, keys_max=100_000, key_bytes_max=10_000, mapping_prefix=b"")
        sight = sight or self.look()
        repair.request(self.missed)
        for moment_ms in itertools.count(monotonic_ms(), 1_000):
            step_of(repair, dirty, sight, moment_ms)
            if not repair.is_under_way():
                return set(dirty.buckets[0])
        raise AssertionError


@pytest.fixture
def server(server_binary: Path) -> Iterator[ValkeyServer]:
    has_debug = chosen().get(NEVER_NARROWED) != server_binary
    with ValkeyServer(binary=server_binary, config=DEBUG if has_debug else {}) as running:
        yield running


@pytest.fixture
def watched(server: ValkeyServer) -> Iterator[tuple[Watch, Any]]:
    """A server with a hash and a string that nobody has touched for long, and the watch over it."""
    client = redis.Redis(port=server.port)
    client.hset("old hash", "f", "v")
    client.set("old string", "x" * 100)
    for key in ("old hash", "old string"):
        age(client, key)
    watch = Watch(server)
    yield watch, client
    watch.close()


def age(client: Any, key: str) -> None:
    """Make the server believe that nobody has touched the key for long."""
    client.restore(key, 0, client.dump(key), replace=True, idletime=10_000)


def is_narrowed(server_binary: Path) -> bool:
    return chosen().get(NEVER_NARROWED) != server_binary


@every_server
def test_what_changed_in_a_gap_is_found(watched: tuple[Watch, Any], server_binary: Path) -> None:
    """Values of every kind that were written in it; others are passed over where the server can be believed."""
    watch, client = watched
    for name, value in SIZES.items():
        client.set(f"set {name}", "before")
        client.set(f"as before {name}", value)
        age(client, f"as before {name}")
    client.set("counter", 11)
    client.set("as before counter", 12)
    age(client, "as before counter")
    watch.begin_gap()
    for name, value in SIZES.items():
        # The same small integer was aged as another key's: where integers are shared, so is its idle time.
        client.set(f"set {name}", value)
    client.incr("counter")
    client.rpush("pushed", *range(10))
    client.hset("packed", mapping={"f": 1})
    client.hset("full", mapping={f"field {number}": "x" * 100 for number in range(600)})
    changed = {f"set {name}".encode() for name in SIZES} | {b"counter", b"pushed", b"packed", b"full"}
    repaired = watch.repaired()
    assert repaired >= changed
    assert (b"old hash" in repaired) is not is_narrowed(server_binary)


@every_server
def test_what_a_primary_changed_in_a_gap_is_found_on_its_replica(server: ValkeyServer, server_binary: Path) -> None:
    """A replica that follows stamps what it applies: repairs there are narrowed as on a primary."""
    with ValkeyServer(binary=server_binary, config={"replicaof": f"127.0.0.1 {server.port}"}) as replica:
        client, reader = redis.Redis(port=server.port), redis.Redis(port=replica.port)
        wait_for(lambda: reader.info("replication")["master_link_status"] == "up", "it follows")
        for key in ("old hash", "hash"):
            client.hset(key, "f", "before")
            age(client, key)
        client.mset(dict.fromkeys(SIZES, "before"))
        client.set("old number", 7)
        age(client, "old number")
        wait_for(lambda: reader.exists("old number"), "the replica has all")
        watch = Watch(replica)
        client.mset(SIZES)
        client.hset("hash", "f", "after")
        wait_for(lambda: reader.hget("hash", "f") == b"after", "the replica has the changes")
        repaired = watch.repaired()
        watch.close()
        assert repaired >= {b"hash", *(name.encode() for name in SIZES)}
        assert (b"old hash" in repaired) is not is_narrowed(server_binary)


def test_what_was_parsed_before_the_gap_is_found() -> None:
    """Commands of a transaction, and those that a pause held back, are executed in the gap, but were read before it."""
    with ExitStack() as stack:
        servers = [stack.enter_context(ValkeyServer(binary=path)) for path in chosen().values()]
        rigs = [(Watch(server), Parsed(server)) for server in servers]
        time.sleep(6.0)  # longer than a narrowed repair's margin: servers give no other way to age a command
        for watch, parsed in rigs:
            watch.begin_gap()
            parsed.execute()
            repaired = watch.repaired()
            watch.close()
            assert repaired >= parsed.keys


class Parsed:
    """Commands that a server has read, and not executed."""

    def __init__(self, server: ValkeyServer) -> None:
        self._client = redis.Redis(port=server.port)
        self._transaction, self._paused = (socket.create_connection(("127.0.0.1", server.port)) for _ in range(2))
        self._transaction.sendall(b"MULTI\r\n")
        for name, value in SIZES.items():
            self._transaction.sendall(command("SET", f"multi {name}", str(value)))
        wait_for(lambda: any(one["multi"] == str(len(SIZES)) for one in self._client.client_list()), "all are queued")
        self._client.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
        for name, value in SIZES.items():
            self._paused.sendall(command("MSET", f"paused {name}", str(value)))
        self.keys = {f"{how} {name}".encode() for how in ("multi", "paused") for name in SIZES}

    def execute(self) -> None:
        self._client.execute_command("CLIENT", "UNPAUSE")
        self._transaction.sendall(b"EXEC\r\n")
        wait_for(lambda: self._client.exists(*self.keys) == len(self.keys), "all are executed")
        self._transaction.close()
        self._paused.close()


def command(*words: str) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)


def config_there_and_back(client: Any) -> None:
    client.config_set("maxmemory-policy", "allkeys-lfu")
    client.config_set("maxmemory-policy", "noeviction")


def swap_there_and_back(client: Any) -> None:
    client.execute_command("SWAPDB", 0, 1)
    client.execute_command("SWAPDB", 0, 1)


def follow_nobody(client: Any) -> None:
    client.execute_command("REPLICAOF", "127.0.0.1", 1)
    client.execute_command("REPLICAOF", "NO", "ONE")


def save(client: Any) -> None:
    client.bgsave()
    wait_for(lambda: not client.info("persistence")["rdb_bgsave_in_progress"], "the save is over")


def reset_and_catch_up(client: Any) -> None:
    client.config_resetstat()
    for _ in range(2):  # as often as before the gap
        age(client, "old string")


MISLEADING: dict[str, Callable[[Any], Any]] = {
    "a policy that came and went": config_there_and_back,
    "databases swapped": swap_there_and_back,
    "followed another": follow_nobody,
    "saved by a child": save,
    "reloaded": lambda client: client.execute_command("DEBUG", "RELOAD"),
    "restored with an idle time": lambda client: age(client, "old string"),
    "statistics reset": lambda client: client.config_resetstat(),
    "statistics reset, and counted up to where they were": reset_and_catch_up,
}


@pytest.mark.parametrize("server_binary", server_params("valkey-9.1", "redis-7.0"))
@pytest.mark.parametrize("happening", MISLEADING)
def test_what_misleads_idle_times_is_not_narrowed(watched: tuple[Watch, Any], happening: str) -> None:
    """Every key of the shard is marked where something in the gap may have left idle times as they were."""
    watch, client = watched
    assert b"old hash" not in watch.repaired()
    watch.begin_gap()
    MISLEADING[happening](client)
    assert b"old hash" in watch.repaired()


@pytest.mark.parametrize("server_binary", server_params("valkey-9.1"))
def test_a_server_s_clock_that_was_set_back_passes_over_nothing(watched: tuple[Watch, Any]) -> None:
    """What was written after it seems older than the gap by the server's clock; by ours it is not."""
    watch, client = watched
    client.set("written in the gap", "v")
    client.restore("written in the gap", 0, client.dump("written in the gap"), replace=True, idletime=100)
    watch.begin_gap()
    # The gap began 100 s ago; then the clock was set back by as much, to where it had been.
    local_ms, back_ms = watch.missed.since_ms - watch.missed.clock_ms, 100_000
    watch.missed = msgspec.structs.replace(watch.missed, clock_ms=watch.missed.since_ms - (local_ms - back_ms))
    assert b"written in the gap" in watch.repaired()
    assert b"old hash" not in watch.repaired()


@pytest.mark.parametrize("server_binary", server_params("valkey-9.1"))
def test_a_step_that_takes_long_passes_over_nothing(watched: tuple[Watch, Any]) -> None:
    """How long a key may have been idle is reckoned by the time after its answer, not by that of the look before."""
    watch, client = watched
    client.hset("written in the gap", "f", "v")
    client.restore("written in the gap", 0, client.dump("written in the gap"), replace=True, idletime=95)
    watch.begin_gap()
    # The gap and the look were 100 s ago, and the server has only now come to answer the step.
    watch.missed = msgspec.structs.replace(watch.missed, since_ms=watch.missed.since_ms - 100_000)
    sight = watch.look()
    repaired = watch.repaired(replace(sight, server_ms=sight.server_ms - 100_000))
    assert b"written in the gap" in repaired
    assert b"old hash" not in repaired


@pytest.mark.parametrize("server_binary", server_params("valkey-9.1"))
def test_the_time_is_asked_after_the_idle_times(watched: tuple[Watch, Any]) -> None:
    """A server may serve others between the commands of a step: then only a time from after them covers the wait."""
    watch, client = watched
    watch.begin_gap()
    with client.monitor() as monitor:
        watch.repaired()
        client.echo("the end")
        heard = list(itertools.takewhile(lambda each: "the end" not in each["command"], monitor.listen()))
    (port,) = {each["client_port"] for each in heard if each["command"].startswith("OBJECT IDLETIME")}
    commands = [each["command"].partition(" ")[0] for each in heard if each["client_port"] == port]
    assert commands[-2:] == ["OBJECT", "TIME"]
