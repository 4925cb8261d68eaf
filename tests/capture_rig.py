"""Real subscribers on a real server, with rings that the test itself reads."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

from engine.capture.dirty import DirtyKeys
from engine.capture.feed.repair import Repair
from engine.capture.subscriber import SubscriberSpec, run_subscriber
from engine.capture.watch.sight import Sight
from engine.config import CaptureSettings, RedisSettings, RingSettings, RouteSettings
from engine.lifecycle import Channel, ChildLink, Message, channel_pair
from engine.model import NOTHING_HEARD, Missed
from engine.ring.codec import decode_runs
from engine.ring.counters import Board, ChildState, Counter
from engine.ring.heard import HeardTable
from engine.ring.ring import RingSet
from engine.ring.wake import Wake
from engine.routing.feeds import Feed
from engine.routing.nodes import Node
from engine.routing.routes import RouteTable
from engine.sandbox.valkey import ValkeyServer
from tests.runs import One, each_of
from tests.shard_plan import Shard, plan_shards

WAIT_S = 20.0
_fork = multiprocessing.get_context("fork")

Taken = list[tuple[int, int, One]]
"""Changes as (shard, invoker, change)."""


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Poll until the condition holds; what it says is returned."""
    deadline = time.monotonic() + WAIT_S
    while not (result := condition()):
        assert time.monotonic() < deadline, f"did not come about: {what}"
        time.sleep(0.005)
    return result


def feed_of(shard: Shard, node: Node | None = None) -> Feed:
    """Return a shard's part of a node."""
    return Feed(node or Node(), shard.patterns, shard.last_bytes, shard.takes_empty_key)


def step_of(repair: Repair, dirty: DirtyKeys, sight: Sight, moment_ms: int, keys_max: int = 100_000) -> Missed | None:
    """Have a repair take one step, and wait for what the server has to say to it."""
    found = repair.advance(dirty, keys_max, sight, moment_ms, 77)
    deadline = time.monotonic() + WAIT_S
    while repair.is_waiting:
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.001)
        found = repair.advance(dirty, keys_max, sight, moment_ms, 77)
    return found


def route(*events: str, keys: tuple[str, ...] = ("*",), name: str = "all") -> RouteSettings:
    return RouteSettings(name=name, function="f", keys=keys, events=events or ("hset",))


@contextmanager
def subscriber(
    *feeds: Feed,
    routes: tuple[RouteSettings, ...] = (),
    settings: CaptureSettings | None = None,
    ring: RingSettings | None = None,
    missed: tuple[Missed, ...] = (),
    redis_settings: RedisSettings | None = None,
    is_ready: bool = True,
) -> Iterator[Capture]:
    """Run one subscriber of these feeds, and wait until it is ready; ``missed`` is what node 0 has missed."""
    running = Capture(
        redis_settings or RedisSettings(url="redis://127.0.0.1:1"),
        plan_shards(1, 0, ()),
        routes or (route(),),
        settings=settings or CaptureSettings(),
        ring=ring or RingSettings(),
        missed=missed,
        feeds=feeds,
    )
    try:
        running.start()
        if is_ready:
            running.wait_ready()
        yield running
    finally:
        running.close()


class Capture:
    """The subscribers of some shards; the test is all of their invokers."""

    def __init__(
        self,
        redis_settings: RedisSettings,
        shards: tuple[Shard, ...],
        routes: tuple[RouteSettings, ...],
        *,
        invokers: int = 1,
        settings: CaptureSettings,
        ring: RingSettings,
        mapping_prefix: str = "",
        missed: tuple[Missed, ...] = (),
        heard: Missed = NOTHING_HEARD,
        feeds: tuple[Feed, ...] | None = None,
        gather_ms: float = 0.0,
    ) -> None:
        """``feeds`` are those of the one shard, where it has others than its own on the one node."""
        self.table = RouteTable.build(routes)
        self._shards = shards
        self._redis = redis_settings
        self._settings = settings
        self._ring = ring
        self._mapping_prefix = mapping_prefix
        self._missed = missed
        self._heard = heard
        self._feeds = feeds
        self._gather_ms = gather_ms
        self.rings = RingSet(len(shards), invokers, ring.ring_bytes)
        self.wakes = [Wake() for _ in range(invokers)]
        self.board = Board(len(shards))
        self.heard_table = HeardTable(len(shards))
        self.readers = [
            [self.rings.ring(shard, invoker).reader() for invoker in range(invokers)] for shard in range(len(shards))
        ]
        self.channels: list[Channel] = []
        self.processes: list[Any] = []

    def start(self) -> None:
        for shard in self._shards:
            ours, theirs = channel_pair()
            process = _fork.Process(target=self._run, args=(shard, ours, theirs), daemon=True)
            process.start()
            theirs.close()
            self.channels.append(ours)
            self.processes.append(process)

    def _run(self, shard: Shard, ours: Channel, theirs: Channel) -> None:
        ours.close()
        spec = SubscriberSpec(
            shard=shard.index,
            feeds=(feed_of(shard),) if self._feeds is None else self._feeds,
            redis=self._redis,
            capture=self._settings,
            ring=self._ring,
            table=self.table,
            database=0,
            mapping_prefix=self._mapping_prefix,
            writers=[self.rings.ring(shard.index, invoker).writer() for invoker in range(len(self.wakes))],
            wakes=self.wakes,
            heard_row=self.heard_table.row(shard.index),
            missed={0: self._missed},
            heard={0: self._heard},
            gather_ms=self._gather_ms,
        )
        raise SystemExit(run_subscriber(spec, ChildLink(theirs, self.board.row(shard.index))))

    def wait_ready(self) -> None:
        wait_for(lambda: all(row.state is ChildState.READY for row in self.board.rows), "all subscribers are ready")

    def count(self, counter: Counter) -> int:
        return sum(row.get(counter) for row in self.board.rows)

    def heard_until(self, shard: int = 0, node: int = 0) -> Missed:
        """Return what a gap of this shard would miss that begins at its newest watermark."""
        return self.heard_table.row(shard).get(node)

    def wait_past(self, number: int, client: Any) -> None:
        """Return once the watermark of a node of the one shard has passed this moment; rings are emptied meanwhile."""
        seconds, micros = client.time()
        moment_ms = seconds * 1_000 + micros // 1_000

        def is_past() -> bool:
            self.take()
            return self.heard_until(node=number).since_ms > moment_ms

        wait_for(is_past, f"the watermark of node {number} moves on")

    def wait_told(self, wanted: type[Message] | Message) -> Message:
        """Return once a subscriber has said this, and what it was."""
        told: list[Message] = []

        def is_told() -> Message | None:
            told.extend(self.heard())
            return next((one for one in told if one == wanted or type(one) is wanted), None)

        found: Message = wait_for(is_told, f"it says {wanted}")
        return found

    def send(self, message: Message) -> None:
        for channel in self.channels:
            channel.send(message)

    def heard(self) -> list[Message]:
        return [message for channel in self.channels for message in channel.receive()]

    def take(self) -> Taken:
        """Return what is in the rings, as (shard, invoker, change), and release it."""
        taken = []
        for shard, readers in enumerate(self.readers):
            for invoker, reader in enumerate(readers):
                while (frame := reader.read()) is not None:
                    taken += [(shard, invoker, change) for change in each_of(decode_runs(frame[0])) if change.routes]
                    reader.release(frame[1])
        return taken

    def take_until(self, condition: Callable[[Taken], bool]) -> Taken:
        taken: Taken = []

        def is_enough() -> bool:
            taken.extend(self.take())
            return condition(taken)

        wait_for(is_enough, "the changes are in the rings")
        return taken

    def take_repaired(self, client: Any, marker: str) -> Taken:
        """Return all that is in the rings once a first repair has ended: what comes before this key, which is set."""
        taken = self.take_until(lambda _: self.count(Counter.REPAIRS) == 1)
        client.hset(marker, "f", "v")
        key = marker.encode()
        taken += self.take_until(lambda taken: any(change.key == key for _, _, change in taken))
        return [one for one in taken if one[2].key != key]

    def join(self) -> list[int]:
        for process in self.processes:
            process.join(WAIT_S)
        return [process.exitcode for process in self.processes]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        for end in (*self.channels, *self.wakes):
            end.close()


@contextmanager
def capture(
    server: ValkeyServer,
    *routes: RouteSettings,
    shards: int = 1,
    invokers: int = 1,
    redis_settings: RedisSettings | None = None,
    settings: CaptureSettings | None = None,
    ring: RingSettings | None = None,
    mapping_prefix: str = "",
    flags: str = "KA",
    is_ready: bool = True,
    password: str | None = None,
    missed: tuple[Missed, ...] = (),
    heard: Missed = NOTHING_HEARD,
    gather_ms: float = 0.0,
) -> Iterator[tuple[Capture, Any]]:
    """Run the subscribers until the block ends; yields them and a client of the server (of the default user)."""
    client = redis.Redis(unix_socket_path=server_socket(server), password=password)
    client.config_set("notify-keyspace-events", flags)
    running = Capture(
        redis_settings or RedisSettings(url=server.url),
        plan_shards(shards, 0, ()),
        routes or (route(),),
        invokers=invokers,
        settings=settings or CaptureSettings(),
        ring=ring or RingSettings(),
        mapping_prefix=mapping_prefix,
        missed=missed,
        heard=heard,
        gather_ms=gather_ms,
    )
    try:
        running.start()
        if is_ready:
            running.wait_ready()
        yield running, client
    finally:
        running.close()
        client.close()


def server_socket(server: ValkeyServer) -> str:
    """Return the path of the server's own socket file, which needs no port and no TLS."""
    assert server._folder is not None
    return f"{server._folder.name}/socket"
