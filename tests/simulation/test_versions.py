"""Versions while slots move between nodes whose clocks differ: the real reads, on a cluster in memory."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from engine.config import RedisSettings
from engine.delivery.reading import fetch, job, node_reader
from engine.delivery.reading.fetch import Fetched, Fetcher
from engine.delivery.reading.versions import EPOCH_US, Versions
from engine.errors import RedisUnreachable
from tests.simulation.harness import Silent
from tests.simulation.nodes import KEYS, FakeCluster, NodeConnection

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "80"))
STEPS = 250


@dataclass(frozen=True)
class Seen:
    """One value as one engine read it; times are true ones."""

    engine: int
    asked_us: int
    read_us: int
    number: int
    version: int


class Stand:
    """Engines that read, while the cluster is changed."""

    def __init__(self, seed: int, patch: pytest.MonkeyPatch, engines: int, *, gossips: bool = True) -> None:
        self.rng = random.Random(seed)
        self.cluster = FakeCluster(self.rng)
        self.cluster.gossips = gossips
        patch.setattr(NodeConnection, "cluster", self.cluster, raising=False)
        patch.setattr(NodeConnection, "happens", staticmethod(self._happen))
        patch.setattr(node_reader, "ReadConnection", NodeConnection)
        for module in (fetch, node_reader):
            patch.setattr(module, "log", Silent())
        for module in (fetch, job):
            patch.setattr(module, "monotonic_ms", lambda: self.cluster.true_us // 1_000)
        settings = RedisSettings(url="redis://node:1")
        self.engines = [Fetcher(settings, 0, "test", topology=self.cluster.topology()) for _ in range(engines)]
        self.seen: dict[bytes, list[Seen]] = {key: [] for key in KEYS}
        self.may_happen = [self.cluster.write, self.cluster.write, self.cluster.move, self.cluster.fail_over]

    def _happen(self) -> None:
        if self.rng.random() < 0.02:
            self.rng.choice(self.may_happen)()

    def read(self, engine: int) -> None:
        """Have an engine read some keys."""
        keys = self.rng.sample(KEYS, self.rng.randint(1, 5))
        asked_us = self.cluster.true_us
        try:
            values = self.engines[engine].fetch([(key, "hset") for key in keys])
        except RedisUnreachable:
            return
        for key, value in zip(keys, values, strict=True):
            self._saw(engine, key, value, asked_us)

    def _saw(self, engine: int, key: bytes, value: Fetched, asked_us: int) -> None:
        assert value.body is not None, f"{key!r} was taken for gone"
        number = int(value.body.split('"')[3])
        self.seen[key].append(Seen(engine, asked_us, self.cluster.true_us, number, value.version))

    def run(self) -> None:
        """Do what the seed says."""
        doings: list[Any] = [self.cluster.write, self.cluster.move, self.cluster.gossip]
        for _ in range(STEPS):
            self.cluster.true_us += self.rng.choice([10, 500, 40_000, 900_000])
            if self.rng.random() < 0.5:
                self.rng.choice(doings)()
            if self.rng.random() < 0.05:
                self.cluster.fail_over()
            engine = self.rng.randrange(len(self.engines))
            if self.rng.random() < 0.1:
                self.engines[engine].set_topology(self.cluster.topology())
            self.read(engine)

    def check_each(self) -> None:
        """See that what one engine reads later has a higher version, and is no older."""
        for key, all_seen in self.seen.items():
            for engine in range(len(self.engines)):
                mine = [one for one in all_seen if one.engine == engine]
                for before, after in pairwise(mine):
                    assert before.version < after.version, f"versions of {key!r} go back: {before}, {after}"
                    assert before.number <= after.number, f"{key!r} goes back: {before}, {after}"

    def check_all(self) -> None:
        """See that whoever asked after a value was read has a higher version than it, whichever engine it is."""
        for key, all_seen in self.seen.items():
            for one in all_seen:
                for other in all_seen:
                    if one.read_us < other.asked_us:
                        assert one.version < other.version, f"versions of {key!r} go back: {one}, {other}"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_engines_order_values_alike(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots move, nodes fail over, clocks are up to 9 s apart: no version of a key goes back, of any engine's reads."""
    stand = Stand(seed, monkeypatch, engines=2)
    stand.run()
    stand.check_each()
    stand.check_all()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_versions_never_go_back(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where clocks are set back, or are further apart, or slots move before epochs are known: for one engine."""
    stand = Stand(seed, monkeypatch, engines=1, gossips=False)

    def set_clock() -> None:
        stand.rng.choice(stand.cluster.nodes).ahead_us = stand.rng.randint(-3_600_000_000, 3_600_000_000)

    stand.may_happen.append(set_clock)
    stand.run()
    stand.check_each()


def faults_found(patch: pytest.MonkeyPatch, seeds: int = 60) -> str:
    """Return what the first seed says that finds something; "" where none of them does."""
    for seed in range(seeds):
        with pytest.MonkeyPatch.context() as inner:
            stand = Stand(seed, inner, engines=2)
            try:
                stand.run()
                stand.check_each()
                stand.check_all()
            except AssertionError as error:
                return str(error)
    return ""


def test_it_finds_versions_of_the_clock_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without epochs, two engines do not order the values of a slot that moved alike."""
    real = Versions.next

    def plain(self: Versions, time_us: int, _epoch: int, floor: int = 0) -> int:
        return real(self, time_us, 0, floor)

    monkeypatch.setattr(Versions, "next", plain)
    assert "go back" in faults_found(monkeypatch)


def test_engines_agree_on_a_slot_that_was_taken_over_too_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that did not know its owner's newest epoch has a lower one: versions of this slot alone count a higher."""
    stand = Stand(1, monkeypatch, engines=2, gossips=False)
    monkeypatch.setattr(NodeConnection, "happens", staticmethod(lambda: None))
    cluster, key = stand.cluster, KEYS[0]
    slot = next(slot for slot, one in cluster.slots.items() if one == key)
    for node in cluster.nodes:
        node.ahead_us = 0
    source = cluster.owner_of(slot)
    target = next(node for node in cluster.nodes if node is not source)
    own = next(iter(target.keys))
    source.epoch = source.current = 9

    def versions() -> list[int]:
        cluster.true_us += 1_000_000
        return [engine.fetch([(one, "hset")])[0].version for one in (key, own) for engine in stand.engines]

    def epochs(told: Sequence[int]) -> list[int]:
        return [(version - cluster.true_us + 1_000_000) // EPOCH_US for version in told]

    before = versions()
    cluster.moving[slot] = source, target
    monkeypatch.setattr(stand.rng, "choice", lambda _: slot)
    cluster.move()
    cluster.move()
    assert target.epoch < source.epoch
    for _ in range(3):
        now = versions()
        assert before[0] < before[1] < now[0] < now[1]
        assert before[2] < before[3] < now[2] < now[3]
        assert epochs(now) == [10, 10, target.epoch, target.epoch]
        before = now
    target.epoch = 11
    assert epochs(versions()) == [11] * 4
