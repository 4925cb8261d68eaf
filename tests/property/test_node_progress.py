"""Slots that move, subscribers and engines that crash: whatever happens, the newest of every key is delivered.

The model is a cluster of four nodes, each with a clock of its own. A key that moves to a node publishes nothing there,
and where it never was before, its idle time says that nobody has used it for ever. Subscribers hear what is published
on nodes that they have feeds on, find what they are handed as missed, and send watermarks; invokers deliver what a key
holds then. The part that decides what is missed is the engine's own.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from engine.config import RouteSettings
from engine.model import THE_BEGINNING_MS, Missed, Watermark
from engine.routing.assignment import Feeds
from engine.routing.feeds import Feed
from engine.routing.nodes import Node, Topology, as_ranges, slots_in
from engine.routing.routes import RouteTable
from engine.supervision.progress.checkpoint import Checkpoint, from_bytes, to_bytes
from engine.supervision.progress.progress import Progress

HISTORIES, AT_ONCE, STEPS = 400, 50, 150
IDS = ("a", "b", "c", "d")
BASE_MS = {"a": 10_000, "b": 900_000, "c": 20_000, "d": 500}
"""Clocks differ by more than a history lasts: whoever compares moments of two nodes is found out."""
BLOCKS, SHARDS, INVOKERS = 4, 2, 2
BLOCK = 2
"""Slots that move together; the others hold no keys, and belong to nobody."""
MARK = 7
ENDINGS = (b"\x00", b"\x01")
KEYS = [(block, ending) for block in range(BLOCKS) for ending in ENDINGS]
TABLE = RouteTable.build([RouteSettings(name="all", function="f")])

Key = tuple[int, bytes]


def slots_of(block: int) -> set[int]:
    return set(range(block * BLOCK, (block + 1) * BLOCK))


@dataclass
class Subscriber:
    """One shard's process; ``debts`` are by node number what it has to find, ``marked`` what it sent last."""

    version: int
    feeds: tuple[Feed, ...]
    debts: dict[int, list[Missed]] = field(default_factory=dict)
    marked: dict[int, int] = field(default_factory=dict)
    handed: dict[int, int] = field(default_factory=dict)

    def hand(self, missed: dict[int, tuple[Missed, ...]]) -> None:
        for number, some in missed.items():
            self.debts.setdefault(number, []).extend(some)
            self.handed[number] = max(self.handed.get(number, 0), *(one.since_ms for one in some))


class Cluster:
    """An engine, a cluster, and what the destination holds."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.tick = 0
        self.owner = dict.fromkeys(range(BLOCKS), "a")
        self.epochs = {id: epoch for epoch, id in enumerate(IDS)}
        self.homes = {(block, "a") for block in range(BLOCKS)}
        """Where each block ever was."""
        self.stamp: dict[Key, int] = dict.fromkeys(KEYS, 0)
        """When a key was used last, by the clock of its node."""
        self.written = dict.fromkeys(KEYS, 0)
        self.delivered = dict.fromkeys(KEYS, 0)
        self.kept: Checkpoint | None = None
        self.boot()
        self.keep()

    # The engine

    def boot(self) -> None:
        self.numbers: dict[str, int] = {}
        self.cuts = dict.fromkeys(IDS, (0,))
        self.topology, self.feeds = self.plan(0)
        found = from_bytes(to_bytes(self.kept)) if self.kept is not None else None
        now_ms = {id: self.now(id) for id in IDS}
        self.progress = Progress(
            "here", found, TABLE, now_ms, is_lost=False, topology=self.topology, feeds=self.feeds
        )  # fmt: skip
        self.entries: dict[tuple[int, int, int], Watermark] = {}
        self.rings: dict[tuple[int, int], deque[Key | Watermark]] = {
            (shard, invoker): deque() for shard in range(SHARDS) for invoker in range(INVOKERS)
        }
        self.rows: dict[tuple[int, int], tuple[int, Missed]] = {}
        self.subscribers: list[Subscriber | None] = []
        for shard in range(SHARDS):
            subscriber = Subscriber(0, self.feeds[shard])
            subscriber.hand(self.progress.missed_at_start(shard))
            if found is not None:
                self.check_start(found, subscriber)
            subscriber.marked = {n: one.since_ms for n, one in self.progress.heard_by(shard, self.heard).items()}
            self.subscribers.append(subscriber)

    def check_start(self, found: Checkpoint, subscriber: Subscriber) -> None:
        """Whatever slots a node has that its entry does not have are looked through whole, and no others."""
        for feed in subscriber.feeds:
            node = feed.node
            entry = found.nodes.get(node.id)
            before = set(slots_in(entry.slots)) if entry is not None else set()
            handed = subscriber.debts.get(node.number, [])
            gained = [one for one in handed if one.slots or one.since_ms == THE_BEGINNING_MS]
            assert all(not one.server_mark for one in gained)
            whole = set().union(*(slots_in(one.slots or node.slots) for one in gained))
            assert whole == set(slots_in(node.slots)) - before
            rest = [(one.since_ms, one.server_mark) for one in handed if one not in gained]
            has_some = entry is not None and before & set(slots_in(node.slots))
            assert rest == ([(entry.watermark_ms, entry.server_mark)] if has_some and entry is not None else [])

    def plan(self, version: int) -> tuple[Topology, Feeds]:
        """Return what the planner finds, with the engine's own numbers."""
        nodes = []
        for id in IDS:
            slots = set().union(*(slots_of(block) for block, owner in self.owner.items() if owner == id))
            if slots:
                number = self.numbers.setdefault(id, len(self.numbers))
                nodes.append(Node(number, id, id, as_ranges(slots), self.epochs[id]))
        shards: list[list[Feed]] = [[] for _ in range(SHARDS)]
        for node in nodes:
            cut = self.cuts[node.id]
            if len(cut) == 1:
                shards[cut[0]].append(Feed(node, (), b"".join(ENDINGS), takes_empty_key=True))
            else:
                for shard, ending in zip(cut, ENDINGS, strict=True):
                    shards[shard].append(Feed(node, (), ending, takes_empty_key=ending == ENDINGS[0]))
        return Topology(tuple(nodes), True, version), tuple(map(tuple, shards))

    def heard(self, shard: int, node: int) -> tuple[int, Missed]:
        return self.rows.get((shard, node), (0, Missed(0)))

    def settled(self, shard: int, node: int) -> list[Watermark]:
        none = Watermark(0, 0, node)
        return [self.entries.get((shard, invoker, node), none) for invoker in range(INVOKERS)]

    def now(self, id: str) -> int:
        return BASE_MS[id] + self.tick

    def publish(self, key: Key, shard: int) -> None:
        self.rings[shard, (key[0] + key[1][0]) % INVOKERS].append(key)

    # What happens to the cluster

    def write(self, key: Key) -> None:
        id = self.owner[key[0]]
        self.tick += 1
        self.written[key] += 1
        self.stamp[key] = self.now(id)
        self.tick += 1
        for shard, subscriber in enumerate(self.subscribers):
            for feed in subscriber.feeds if subscriber is not None else ():
                if feed.node.id == id and key[1] in feed.last_bytes:
                    self.publish(key, shard)

    def move(self, block: int, id: str) -> None:
        """A slot gets another owner, behind everybody's back."""
        if self.owner[block] != id:
            self.owner[block] = id
            if any(self.epochs[other] > self.epochs[id] for other in IDS):
                self.epochs[id] = max(self.epochs.values()) + 1
            stamp = self.now(id) if (block, id) in self.homes else 0
            self.stamp |= dict.fromkeys([(block, ending) for ending in ENDINGS], stamp)
            self.homes.add((block, id))

    # What the supervisor does

    def assign_otherwise(self, id: str, cut: tuple[int, ...]) -> None:
        self.cuts[id] = cut
        self.replan()

    def replan(self) -> None:
        topology, feeds = self.plan(self.topology.version + 1)
        if (topology.nodes, feeds) != (self.topology.nodes, self.feeds):
            self.topology, self.feeds = topology, feeds
            self.progress.take_topology(topology, feeds)

    def hand_over(self, shard: int) -> None:
        subscriber = self.subscribers[shard]
        if subscriber is None or subscriber.version == self.topology.version:
            return
        missed = self.progress.missed_since(shard, subscriber.version)
        before, subscriber.feeds = subscriber.feeds, self.feeds[shard]
        names = {(feed.node.number, feed.last_bytes) for feed in before}
        kept = {feed.node.number for feed in subscriber.feeds if (feed.node.number, feed.last_bytes) in names}
        for number in {feed.node.number for feed in before} - kept:
            # The feed is closed; one that comes in its place knows only what it is handed.
            for known in (subscriber.debts, subscriber.marked, subscriber.handed):
                known.pop(number, None)  # type: ignore[attr-defined]
        subscriber.hand(missed)
        subscriber.version = self.topology.version

    def kill(self, shard: int) -> None:
        self.subscribers[shard] = None

    def fork(self, shard: int) -> None:
        if self.subscribers[shard] is None:
            subscriber = Subscriber(self.topology.version, self.feeds[shard])
            subscriber.hand(self.progress.missed_by(shard, self.heard))
            subscriber.marked = {n: one.since_ms for n, one in self.progress.heard_by(shard, self.heard).items()}
            self.subscribers[shard] = subscriber

    def keep(self) -> None:
        self.progress.advance(self.settled, self.heard)
        self.kept = self.progress.checkpoint(0, 0, 0, is_clean=False)

    def crash(self) -> None:
        """The host dies; it starts again by the checkpoint that was kept last."""
        self.boot()

    # What subscribers and invokers do

    def find(self, shard: int) -> None:
        """A scan for one debt ends."""
        subscriber = self.subscribers[shard]
        if subscriber is not None and (owing := [number for number, debts in subscriber.debts.items() if debts]):
            number = self.rng.choice(owing)
            self.scan(shard, subscriber, number, subscriber.debts[number].pop(0))

    def scan(self, shard: int, subscriber: Subscriber, number: int, missed: Missed) -> None:
        is_narrowed = missed.server_mark == MARK and missed.since_ms > THE_BEGINNING_MS
        for feed in subscriber.feeds:
            if feed.node.number != number:
                continue
            slots = set(slots_in(missed.slots or feed.node.slots)) & set(slots_in(feed.node.slots))
            for key in KEYS:
                is_here = self.owner[key[0]] == feed.node.id and slots_of(key[0]) & slots and key[1] in feed.last_bytes
                if is_here and (not is_narrowed or self.stamp[key] >= missed.since_ms):
                    self.publish(key, shard)

    def mark(self, shard: int, invokers: tuple[int, ...]) -> None:
        """Watermarks go into the rings; a full one refuses, and then none of them counts as sent."""
        subscriber = self.subscribers[shard]
        if subscriber is None:
            return
        for feed in subscriber.feeds:
            number = feed.node.number
            debts = [one.since_ms for one in subscriber.debts.get(number, ())]
            moment_ms, marked_ms = min([self.now(feed.node.id), *debts]), subscriber.marked.get(number, 0)
            if moment_ms == marked_ms or (debts and moment_ms < max(marked_ms, subscriber.handed.get(number, 0) + 1)):
                continue
            for invoker in invokers:
                self.rings[shard, invoker].append(Watermark(moment_ms, MARK, number, subscriber.version))
            if len(invokers) == INVOKERS:
                subscriber.marked[number] = moment_ms
                self.rows[shard, number] = (subscriber.version, Missed(moment_ms, MARK, clock_ms=1))

    def settle(self, shard: int, invoker: int, count: int) -> None:
        ring = self.rings[shard, invoker]
        for _ in range(min(count, len(ring))):
            item = ring.popleft()
            if isinstance(item, Watermark):
                self.entries[shard, invoker, item.node] = item
            else:
                self.delivered[item] = self.written[item]

    def come_to_rest(self) -> None:
        """Once nothing more happens, all that was written is delivered, and the checkpoint owes nothing."""
        self.replan()
        for shard in range(SHARDS):
            self.hand_over(shard)
            self.fork(shard)
        for _ in range(2):
            self.tick += 1
            for shard, subscriber in enumerate(self.subscribers):
                assert subscriber is not None
                for number, debts in subscriber.debts.items():
                    while debts:
                        self.scan(shard, subscriber, number, debts.pop(0))
                self.mark(shard, (0, 1))
                for invoker in range(INVOKERS):
                    self.settle(shard, invoker, len(self.rings[shard, invoker]))
            self.keep()
        assert self.delivered == self.written
        assert self.kept is not None
        assert {id: node.slots for id, node in self.kept.nodes.items()} == {
            node.id: node.slots for node in self.topology.nodes
        }

    def check_kept(self) -> None:
        """What the checkpoint says is settled would not be missed: all else is found by who starts from it."""
        if self.kept is None:
            return
        for key in KEYS:
            id = self.owner[key[0]]
            entry = self.kept.nodes.get(id)
            is_covered = entry is not None and slots_of(key[0]) <= set(slots_in(entry.slots))
            if is_covered and entry is not None and 0 < self.stamp[key] < entry.watermark_ms:
                assert self.delivered[key] == self.written[key], (key, entry)


def step(cluster: Cluster) -> None:
    """Do something: most of it is work, some of it is trouble."""
    pick, shard = cluster.rng.choice, cluster.rng.randrange(SHARDS)
    steps: list[tuple[int, Callable[[], None]]] = [
        (30, lambda: cluster.write(pick(KEYS))),
        (30, lambda: cluster.settle(shard, cluster.rng.randrange(INVOKERS), pick([1, 3, 99]))),
        (20, lambda: cluster.mark(shard, pick([(0, 1), (0, 1), (0, 1), (0,), (1,)]))),
        (12, lambda: cluster.find(shard)),
        (12, cluster.keep),
        (8, lambda: cluster.hand_over(shard)),
        (8, lambda: cluster.fork(shard)),
        (6, cluster.replan),
        (4, lambda: cluster.move(cluster.rng.randrange(BLOCKS), pick(IDS))),
        (3, lambda: cluster.assign_otherwise(pick(IDS), pick([(0,), (1,), (0, 1), (1, 0)]))),
        (2, lambda: cluster.kill(shard)),
        (1, cluster.crash),
    ]
    (step,) = cluster.rng.choices([do for _, do in steps], [weight for weight, _ in steps])
    step()
    cluster.check_kept()


@pytest.mark.parametrize("first", range(0, HISTORIES, AT_ONCE))
def test_whatever_moves_and_whoever_crashes(first: int) -> None:
    """The newest of every key is delivered, and after a restart nothing is scanned whole in vain."""
    for seed in range(first, first + AT_ONCE):
        try:
            cluster = Cluster(seed)
            for _ in range(STEPS):
                step(cluster)
            cluster.come_to_rest()
        except AssertionError as error:
            raise AssertionError(f"history {seed}: {error}") from error
