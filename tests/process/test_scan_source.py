"""The ``scan`` source on a real server, turned by hand: what a pass finds, what it proves, and what it does not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from engine.capture.dirty import DirtyKeys
from engine.capture.shared import CaptureScope, Shared
from engine.capture.sources.scan.source import ScanSource
from engine.clock import monotonic_ms
from engine.config import CaptureSettings, RedisSettings, RouteSettings
from engine.errors import RedisError
from engine.model import FORCED, THE_BEGINNING_MS, Missed
from engine.ring.counters import Board
from engine.routing.events import REPAIR, REPAIR_GONE
from engine.routing.feeds import Feed
from engine.routing.nodes import Node
from engine.routing.routes import RouteTable
from engine.sandbox.valkey import ValkeyServer
from tests.capture_rig import wait_for

FEED = Feed(Node(), (b"__keyspace@0__:*",), bytes(range(256)), True)


class Rig:
    """A source, its dirty set, and the mark that all rings have settled."""

    def __init__(self, server: ValkeyServer, folder: Path, events: tuple[str, ...], **settings: object) -> None:
        self.client = redis.Redis(port=server.port)
        capture = CaptureSettings(source="scan", **{"scan_period_s_max": 1.0, **settings})  # type: ignore[arg-type]
        scope = CaptureScope(
            0, RedisSettings(url=server.url, read_timeout_ms=500), capture, 0, "", str(folder / "names")
        )
        self.dirty = DirtyKeys(
            prefix_bytes=15, invokers=2, keys_max=capture.dirty_keys_max, key_bytes_max=1_000, mapping_prefix=b""
        )
        route = RouteSettings(name="all", function="f", events=events, skip_unchanged=True)
        self.shared = Shared(scope, RouteTable.build((route,)), self.dirty, Board(1).row(0), lambda _message: None)
        self.settled = 0
        self.shared.settled_mark = lambda _node: self.settled
        self.source = ScanSource(FEED, self.shared, ())

    def turn_until(self, condition: Callable[[], object], what: str) -> None:
        """Turn as the subscriber's loop does, until something is the case."""

        def turn() -> object:
            self.source.listen(monotonic_ms())
            return condition()

        wait_for(turn, what)

    def take(self) -> dict[bytes, tuple[str, int]]:
        """Take what is dirty, as rings do: (event, routes) by key."""
        taken = {}
        for bucket in self.dirty.buckets:
            taken.update({key: (change.event, change.routes) for key, change in bucket.items()})
            bucket.clear()
        return taken

    def passed(self) -> dict[bytes, tuple[str, int]]:
        """Turn until a pass that begins now is over; return what it marked, which is in the rings then."""
        self.source.find([Missed(5)])
        found: dict[bytes, tuple[str, int]] = {}

        def is_over() -> bool:
            found.update(self.take())
            return self.source.reached() is not None

        self.turn_until(is_over, "a pass")
        reached = self.source.reached()
        assert reached is not None
        self.source.marked = reached
        return found


@contextmanager
def rig(folder: Path, *events: str, **settings: object) -> Iterator[Rig]:
    with ValkeyServer() as server:
        made = Rig(server, folder, events or ("changes",), **settings)
        try:
            yield made
        finally:
            made.source.close()


def test_a_pass_marks_every_key_and_proves_what_was_before_it(tmp_path: Path) -> None:
    """Its watermark is the server's time at its beginning; the keys that are found gone come in it too."""
    with rig(tmp_path, scan_period_s_max=3.0) as made:
        pipe = made.client.pipeline(transaction=False)
        for number in range(2_000):
            pipe.set(f"key:{number}", number)
        pipe.execute()
        before_s = made.client.time()[0]
        made.turn_until(lambda: len(made.dirty) > 600, "a part of a pass")
        assert made.source.reached() is None
        in_it_s = sum(part / 10**power for part, power in zip(made.client.time(), (0, 6), strict=True))
        found = made.take() | made.passed()
        assert len(found) == 2_000 and {event for event, _ in found.values()} == {REPAIR}
        first = made.source.marked
        assert first.since_ms > in_it_s * 1_000, "the wish is served by a pass that begins after it"
        made.source.set_routes([])
        assert made.source.reached() is None
        assert before_s * 1_000 <= first.since_ms


def test_a_claim_is_as_old_as_its_pass(tmp_path: Path) -> None:
    """What changes while a pass goes on may lie behind it, so it proves nothing of that."""
    with rig(tmp_path, scan_period_s_max=2.0) as made:
        pipe = made.client.pipeline(transaction=False)
        for number in range(3_000):
            pipe.set(f"key:{number}", number)
        pipe.execute()
        made.turn_until(lambda: len(made.dirty) > 1_000, "the midst of a pass")
        seconds, micros = made.client.time()
        made.turn_until(lambda: not len(made.take()) and made.source.reached(), "its end")
        reached = made.source.reached()
        assert reached is not None
        assert reached.since_ms <= seconds * 1_000 + micros // 1_000


def test_keys_that_are_gone_are_marked_until_that_is_settled(tmp_path: Path) -> None:
    """Each pass marks them again, until the rings have settled a mark; who is there again stays known."""
    with rig(tmp_path) as made:
        for key in ("a", "b", "c"):
            made.client.set(key, 1)
        made.passed()
        made.client.delete("a", "b")
        found = made.passed()
        assert {key for key, (event, _) in found.items() if event == REPAIR_GONE} == {b"a", b"b"}
        assert {key for key, (event, _) in made.passed().items() if event == REPAIR_GONE} == {b"a", b"b"}
        made.client.set("b", 2)
        found = made.passed()
        assert found[b"b"][0] == REPAIR and found[b"a"][0] == REPAIR_GONE
        made.settled = made.source.marked.server_mark
        assert b"a" not in made.passed()
        made.client.delete("b")
        assert made.passed()[b"b"][0] == REPAIR_GONE


def test_nobody_who_wants_no_deletes_has_names(tmp_path: Path) -> None:
    """A route that leaves deleted keys at the destination costs no disk."""
    with rig(tmp_path, "hset", "set") as made:
        made.client.set("a", 1)
        assert b"a" in made.passed()
        assert not (tmp_path / "names").exists()


def test_a_node_that_is_a_replica_now_proves_nothing(tmp_path: Path) -> None:
    """A pass that ends on a replica is none."""
    with rig(tmp_path) as made:
        pipe = made.client.pipeline(transaction=False)
        for number in range(2_000):
            pipe.set(f"key:{number}", number)
        pipe.execute()
        made.turn_until(lambda: len(made.dirty) > 600, "a part of a pass")
        made.client.replicaof("127.0.0.1", 1)
        with pytest.raises(RedisError, match="primary"):
            made.turn_until(lambda: made.source.reached(), "its end")
        made.client.replicaof("NO", "ONE")
        made.source.lose(RedisError("it was a replica"), monotonic_ms())
        made.turn_until(lambda: not made.take() and made.source.reached(), "a pass over a primary")


def test_a_server_that_is_silent_is_given_up(tmp_path: Path) -> None:
    """A black hole in the midst of a pass: the loop goes on, and the next pass begins anew."""
    with ValkeyServer() as server:
        made = Rig(server, tmp_path, ("changes",))
        for number in range(1_200):
            made.client.set(f"key:{number}", number)
        made.turn_until(lambda: len(made.dirty) > 400, "a part of a pass")
        os.kill(server.pid, signal.SIGSTOP)
        began_s = time.monotonic()
        with pytest.raises(RedisError, match="did not answer"):
            made.turn_until(lambda: False, "an error")
        made.source.lose(RedisError("silent"), monotonic_ms())
        os.kill(server.pid, signal.SIGCONT)
        assert time.monotonic() - began_s >= 0.5
        assert len(made.passed() | made.take()) > 0
        made.source.close()


def test_a_pass_waits_for_room(tmp_path: Path) -> None:
    """Past half of the dirty set nothing more is looked at, and nothing is dropped."""
    with rig(tmp_path, dirty_keys_max=1_200) as made:
        pipe = made.client.pipeline(transaction=False)
        for number in range(3_000):
            pipe.set(f"key:{number}", number)
        pipe.execute()
        made.turn_until(lambda: len(made.dirty) >= 600, "half of it")
        deadline = time.monotonic() + 0.3
        made.turn_until(lambda: time.monotonic() > deadline, "some turns")
        assert len(made.dirty) <= 1_200
        assert made.source.reached() is None
        found = made.take()
        assert len(found | made.passed()) == 3_000


def test_keys_that_another_host_had_are_forced(tmp_path: Path) -> None:
    """Nobody here knows what was delivered of them: they are delivered whatever they hold, once."""
    with rig(tmp_path, slice="0/2") as made:
        made.client.set("a", 1)
        made.source.find([Missed(THE_BEGINNING_MS, slots=((0, 5),))])
        assert made.passed()[b"a"][1] & FORCED
        assert not made.passed()[b"a"][1] & FORCED
