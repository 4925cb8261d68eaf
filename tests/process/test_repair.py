from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from engine.capture.dirty import DirtyKeys
from engine.capture.feed import scan as scan_module
from engine.capture.feed.repair import Repair
from engine.capture.feed.subscription import Subscription
from engine.capture.watch.sight import Sight
from engine.config import CaptureSettings, RedisSettings, RouteSettings
from engine.model import Missed
from engine.ring.counters import Board, Counter
from engine.routing.routes import RouteTable
from engine.sandbox.valkey import ValkeyServer
from tests.capture_rig import feed_of, step_of
from tests.shard_plan import plan_shards

CARTS = RouteSettings("carts", "f", keys=("cart:*",))
STEPS_MAX = 2_000
FAST = CaptureSettings(repair_keys_per_s_max=10_000_000)
SIGHT = Sight(1_000)


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@pytest.fixture
def client(server: ValkeyServer) -> Any:
    connected = redis.Redis(port=server.port)
    connected.flushall()
    return connected


def dirty_keys(keys_max: int = 100_000) -> DirtyKeys:
    return DirtyKeys(prefix_bytes=15, invokers=2, keys_max=keys_max, key_bytes_max=10_000, mapping_prefix=b"__meta__")


class Rig:
    def __init__(self, url: str, *routes: RouteSettings, shards: int = 1, index: int = 0) -> None:
        self.row = Board(1).row(0)
        shard = plan_shards(shards, 0, ())[index]
        table = RouteTable.build(routes or [CARTS])
        subscription = Subscription(RedisSettings(url=url), 0, feed_of(shard), 0, 65_536)
        self.repair = Repair(subscription, table, b"__meta__", FAST, self.row)
        self.moment_ms = 1_000

    def run(self, dirty: DirtyKeys, keys_max: int = 100_000) -> None:
        """Step until the repair is done."""
        for _ in range(STEPS_MAX):
            if not self.repair.is_under_way():
                return
            self.moment_ms += 40_000
            step_of(self.repair, dirty, SIGHT, self.moment_ms, keys_max)
        raise AssertionError("the repair does not come to its end")


def marked(dirty: DirtyKeys) -> set[bytes]:
    return {key for bucket in dirty.buckets for key in bucket}


def test_a_repair_marks_the_keys_that_a_route_wants(server: ValkeyServer, client: Any) -> None:
    """All of them, of any type and the empty key too; no other key, and no mapping hash."""
    expected = {b"cart:%d" % number for number in range(3_000)} | {b"cart:\xff\x00"}
    for key in expected:
        client.hset(key, "f", "v")
    client.hset("user:1", "f", "v")
    client.hset("__meta__:1", "f", "v")
    rig, dirty = Rig(server.url), dirty_keys()
    rig.repair.request(Missed(5))
    rig.run(dirty)
    assert marked(dirty) == expected
    assert rig.row.get(Counter.REPAIRS) == 1
    assert rig.row.get(Counter.KEYS_REPAIRED) == len(expected)
    client.hset("", "f", "v")
    everything = Rig(server.url, RouteSettings("all", "f"))
    everything.repair.request(Missed(5))
    everything.run(dirty := dirty_keys())
    assert b"" in marked(dirty)
    assert b"user:1" in marked(dirty)
    assert b"__meta__:1" not in marked(dirty)


def test_shards_repair_disjoint_parts(server: ValkeyServer, client: Any) -> None:
    """The repairs of all shards together find each key exactly once."""
    for number in range(1_000):
        client.set(f"cart:{number}", "v")
    found: list[bytes] = []
    for index in range(4):
        rig, dirty = Rig(server.url, shards=4, index=index), dirty_keys()
        rig.repair.request(Missed(5))
        rig.run(dirty)
        found += marked(dirty)
    assert sorted(found) == sorted(b"cart:%d" % number for number in range(1_000))


def test_live_changes_come_first(server: ValkeyServer, client: Any) -> None:
    """A scan waits while the dirty set holds its share, drops nothing, and goes on when there is room."""
    for number in range(1_000):
        client.set(f"cart:{number}", "v")
    rig, dirty = Rig(server.url), dirty_keys(keys_max=300)
    rig.repair.request(Missed(5))
    seen: set[bytes] = set()
    for _ in range(STEPS_MAX):
        if not rig.repair.is_under_way():
            break
        rig.moment_ms += 1_000
        step_of(rig.repair, dirty, SIGHT, rig.moment_ms, 150)
        assert len(dirty) <= 300
        if len(dirty) >= 150:
            seen |= marked(dirty)
            for bucket in dirty.buckets:
                bucket.clear()
    assert seen | marked(dirty) == {b"cart:%d" % number for number in range(1_000)}


def test_a_gap_during_a_scan_is_scanned_again(server: ValkeyServer, client: Any) -> None:
    """Keys that the scan has passed may have changed in the new gap: a second scan follows the first."""
    for number in range(3_000):
        client.set(f"cart:{number}", "v")
    rig, dirty = Rig(server.url), dirty_keys()
    rig.repair.request(Missed(5))
    step_of(rig.repair, dirty, SIGHT, 1_000)
    rig.repair.request(Missed(9))
    rig.run(dirty)
    assert rig.row.get(Counter.REPAIRS) == 2


def test_a_server_that_fails_is_asked_again_from_the_beginning(
    server: ValkeyServer, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost connection or a refusal never ends a repair; its cursor is not trusted afterwards."""
    for number in range(3_000):
        client.set(f"cart:{number}", "v")
    rig, dirty = Rig(server.url), dirty_keys()
    rig.repair.request(Missed(5))
    for moment_ms in (1_000, 2_000, 3_000):
        step_of(rig.repair, dirty, SIGHT, moment_ms)
    assert client.client_kill_filter(_type="normal", skipme=True) >= 1
    monkeypatch.setattr(scan_module, "SCAN_COUNT", "not a number")
    for moment_ms in (4_000, 60_000, 70_000, 80_000):
        step_of(rig.repair, dirty, SIGHT, moment_ms)
    assert rig.repair.is_under_way()
    monkeypatch.undo()
    rig.moment_ms = 1_000_000
    rig.run(dirty)
    assert len(marked(dirty)) == 3_000
    assert rig.row.get(Counter.REPAIRS) == 1


def test_a_server_that_hangs_holds_up_nobody(server: ValkeyServer, client: Any) -> None:
    """A step returns at once, whatever the server does; it is given up in the end, and its scan begins again."""
    client.mset({f"cart:{number}": "v" for number in range(3_000)})
    rig, dirty = Rig(server.url), dirty_keys()
    rig.repair.request(Missed(5))
    step_of(rig.repair, dirty, SIGHT, 1_000)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        for moment_ms in (2_000, 3_000, 4_000):
            rig.repair.advance(dirty, 100_000, SIGHT, moment_ms, 77)
            assert rig.repair.is_waiting
        rig.repair.advance(dirty, 100_000, SIGHT, 2_001 + RedisSettings().read_timeout_ms, 77)
        assert not rig.repair.is_waiting
        assert rig.repair.is_under_way()
    finally:
        os.kill(server.pid, signal.SIGCONT)
    rig.moment_ms = 1_000_000
    rig.run(dirty)
    assert len(marked(dirty)) == 3_000


def test_a_route_that_only_hears_of_deletes_is_not_repaired() -> None:
    """What a scan finds is there: a route that lists nothing but `del` has no use for it."""
    table = RouteTable.build([RouteSettings("gone", "f", events=("del",)), RouteSettings("all", "f")])
    slots = {route.name: slot for slot, route in table.routes.items()}
    assert table.for_repairs().mask(b"key") == 1 << slots["all"]


def test_a_mark_keeps_what_an_event_has_said() -> None:
    """A key that is dirty already keeps its event and its time, and gets the routes that it lacks."""
    dirty = dirty_keys()
    assert dirty.mark([b"k"], lambda _key: 1, "hset", 5) == (1, [])
    assert dirty.mark([b"k", b"l"], lambda _key: 2, "repair", 9) == (2, [])
    changes = {key: change for bucket in dirty.buckets for key, change in bucket.items()}
    assert (changes[b"k"].event, changes[b"k"].routes, changes[b"k"].captured_ms) == ("hset", 3, 5)
    assert (changes[b"l"].event, changes[b"l"].routes, changes[b"l"].captured_ms) == ("repair", 2, 9)
