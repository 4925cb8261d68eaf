"""Keys whose node can't be asked now: they wait in their lane, and nothing else waits for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.config import RouteSettings
from engine.delivery import reads
from engine.delivery.dispatch import Burial
from engine.delivery.lanes.route_lane import RouteLane
from engine.delivery.lanes.settle import Ledger
from engine.delivery.lanes.work import Batch
from engine.delivery.names import NamesOfDelivered
from engine.delivery.reading.fetch import Hold, Read, ReadLoop, Wish
from engine.delivery.reading.job import Job, Key
from engine.delivery.reading.questions import Fetched
from engine.delivery.reads import AWAY_MS, Reads
from engine.delivery.sockets import Sockets
from engine.digests.names import Names, path_of
from engine.model import Failure, Outcome, Run
from engine.ring.counters import Board, StatusRow
from tests.lane_bench import DELIVERY, ROUTE, UNIX_MS, Hands, lane_kit

NODE = object()
"""Stands for a `NodeReader`."""


class LateJob(Job):
    """What a slow node was asked: `answer` ends it."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys, self.reader = keys, NODE  # type: ignore[assignment]
        self.values, self.redirects, self.is_over = [], [], False

    def answer(self, body: str) -> None:
        self.values = [Fetched(key, "hash", body, "", 5) for key, _ in self.keys]
        self.is_over = True


class FakeFetcher:
    """Gives every key's newest body, but for those whose names begin with ``away``."""

    version = 9

    def __init__(self) -> None:
        self.away = "away"
        """What is the matter with the node of those keys: ``away``, ``late``, ``later`` or nothing."""
        self.body = '"1"'
        self.asked: list[list[bytes]] = []
        self.jobs: list[LateJob] = []
        self.enough = 1 << 30

    def is_open(self) -> bool:
        return True

    def read(self, keys: Sequence[Key], _wish: Wish) -> Read:
        self.asked.append([key for key, _ in keys])
        held = [index for index, (key, _) in enumerate(keys) if self.away and key.startswith(b"away")]
        values: list[Fetched | None] = [
            None if index in held or index >= self.enough else Fetched(key, "hash", self.body, "", 7)
            for index, (key, _) in enumerate(keys)
        ]
        read = Read(values, sum(value is not None for value in values))
        if held and self.away == "late":
            self.jobs.append(LateJob([keys[index] for index in held]))
            read.holds.append(Hold(held, NODE, self.jobs[-1]))  # type: ignore[arg-type]
            self.away = "away"
        elif held:
            is_later = self.away == "later"
            read.holds.append(Hold(held, None if is_later else NODE, wait_ms=70 if is_later else 0))  # type: ignore[arg-type]
        return read


class Link:
    """The invoker's row, and nobody to report to."""

    def __init__(self, row: StatusRow) -> None:
        self.row = row

    def report(self, _message: object) -> None:
        pass


class Bench:
    """A lane, its reads, and what it gave to its hands; time is what a test says."""

    def __init__(
        self,
        kit: Any,
        patch: pytest.MonkeyPatch,
        route: RouteSettings = ROUTE,
        names: NamesOfDelivered | None = None,
    ) -> None:
        self.lane = RouteLane(route, kit)
        self.ledger = Ledger()
        self.fetcher = FakeFetcher()
        self.now_ms = 0
        self._end = 0
        patch.setattr(reads, "monotonic_ms", lambda: self.now_ms)
        patch.setattr(reads, "now_ms", lambda: UNIX_MS + self.now_ms)
        self.loop: ReadLoop

        def make(loop: ReadLoop) -> Any:
            self.loop = loop
            return self.fetcher

        link: Any = Link(Board(1).row(0))
        lanes = [self.lane]
        self.reads = Reads(make, link, Sockets(), lambda: None, lambda _: 1, lambda: lanes, 1 << 20, names=names)

    def mark(self, *keys: bytes, event: str = "hset") -> None:
        self._end += 10
        changes = [Run(event, 1, UNIX_MS, [*keys])]
        self.lane.keys.add(changes, self.ledger.add(self._end), self.now_ms)

    def deliver(self) -> bool:
        """Deliver everything that may start; tell whether anything did."""
        started = False
        while (batch := self.lane.take(self.now_ms)) is not None:
            started |= self.reads.deliver(self.lane, batch)
        return started

    def free(self) -> None:
        self.loop.freed(NODE)  # type: ignore[arg-type]

    def sent(self) -> list[dict[bytes, str]]:
        """Return what is sent and not answered: body by key."""
        return [{key: body_of(batch) for key, _ in batch.sent} for batch in self.flying()]

    def flying(self) -> list[Batch]:
        hands: Any = self.lane._hands._dispatcher
        assert isinstance(hands, Hands)
        assert not any(isinstance(job, Burial) for job in hands.jobs)
        return [job for job in hands.jobs if isinstance(job, Batch)]

    def accept(self) -> None:
        """Have every invocation end well."""
        hands: Any = self.lane._hands._dispatcher
        jobs, hands.jobs = hands.jobs, []
        for batch in jobs:
            self.lane.complete(batch, Outcome(), self.now_ms, UNIX_MS + self.now_ms)


def body_of(batch: Batch) -> str:
    record = msgspec.json.decode(batch.payload)["records"][0]
    return str(record["body"])


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with lane_kit(tmp_path, monkeypatch) as kit:
        delivery = msgspec.structs.replace(DELIVERY, retrying_keys_max=1_000)
        yield Bench(replace(kit, delivery=delivery), monkeypatch)


def test_keys_of_a_node_that_is_away_wait_alone(bench: Bench) -> None:
    """The rest of their batch is sent; they are no attempt, hold their frame, and are due once their node is back."""
    bench.mark(b"a", b"away:1", b"b")
    assert bench.deliver()
    assert bench.sent() == [{b"a": '"1"', b"b": '"1"'}]
    bench.accept()
    assert bench.ledger.settled() is None
    ((due_ms, _, batch),) = bench.lane.keys.retries
    assert (due_ms, batch.attempts) == (AWAY_MS, 0)
    bench.fetcher.away = ""
    assert not bench.deliver()
    bench.free()
    assert bench.deliver()
    assert bench.sent() == [{b"away:1": '"1"'}]
    bench.accept()
    assert bench.ledger.settled() == 10
    assert bench.lane.keys.is_idle()


def test_nothing_is_sent_for_a_batch_whose_keys_all_wait(bench: Bench) -> None:
    """There is no invocation, and no slot is taken."""
    bench.mark(b"away:1")
    assert not bench.deliver()
    assert bench.flying() == []
    assert bench.lane.keys.invocations == 0


def test_keys_that_wait_for_one_node_become_whole_batches_again(bench: Bench) -> None:
    """They came one by one; they are delivered by as many as a batch takes."""
    for number in range(6):
        bench.mark(b"away:%d" % number)
        bench.deliver()
    assert sorted(len(batch.entries) for _, _, batch in bench.lane.keys.retries) == [2, 4]
    assert bench.lane.keys.retrying_keys == 6
    bench.fetcher.away = ""
    bench.free()
    bench.deliver()
    assert [len(batch) for batch in bench.sent()] == [4, 2]


def test_a_change_while_its_node_is_away_is_read_with_it(bench: Bench) -> None:
    """A key that waits for its node takes in what changes meanwhile: one read, one delivery."""
    bench.mark(b"away:1")
    bench.deliver()
    bench.mark(b"away:1")
    bench.fetcher.away = ""
    bench.free()
    bench.deliver()
    bench.accept()
    assert bench.ledger.settled() == 20
    assert bench.lane.keys.is_idle()


def test_what_a_slow_node_answers_late_is_sent(bench: Bench) -> None:
    """It is not read again; a change that came meanwhile is delivered after it, as it is then."""
    bench.fetcher.away = "late"
    bench.mark(b"away:1")
    assert not bench.deliver()
    bench.mark(b"away:1")
    bench.fetcher.jobs[0].answer('"late"')
    bench.free()
    assert bench.deliver()
    assert bench.sent() == [{b"away:1": '"late"'}]
    assert len(bench.fetcher.asked) == 1
    bench.accept()
    assert bench.ledger.settled() == 10
    bench.fetcher.away = ""
    bench.deliver()
    assert bench.sent() == [{b"away:1": '"1"'}]


def test_late_values_are_dropped_where_a_change_stands_for_them(bench: Bench) -> None:
    """Once a newer change is part of the batch, what was read before it is none of its values."""
    bench.fetcher.away = "late"
    bench.mark(b"away:1")
    bench.deliver()
    bench.mark(b"away:1")
    assert bench.lane.shelf.free_retries(bench.lane.keys) == ""
    bench.fetcher.jobs[0].answer('"stale"')
    bench.fetcher.away = ""
    bench.now_ms = AWAY_MS
    bench.deliver()
    assert bench.sent() == [{b"away:1": '"1"'}]


def test_late_values_are_dropped_where_nobody_waited_for_them(bench: Bench) -> None:
    """A batch that looked again before its node had answered is read as it is then."""
    bench.fetcher.away = "late"
    bench.mark(b"away:1")
    bench.deliver()
    bench.now_ms = AWAY_MS
    bench.deliver()
    bench.fetcher.jobs[0].answer('"stale"')
    bench.fetcher.away = ""
    bench.free()
    bench.deliver()
    assert bench.sent() == [{b"away:1": '"1"'}]


def test_late_values_are_dropped_where_the_route_wants_to_know_more(bench: Bench) -> None:
    """New settings of a route hold for what is delivered after them."""
    bench.fetcher.away = "late"
    bench.mark(b"away:1")
    bench.deliver()
    bench.lane.use(msgspec.structs.replace(ROUTE, include_expiry=True))
    bench.fetcher.jobs[0].answer('"stale"')
    bench.fetcher.away = ""
    bench.now_ms = AWAY_MS
    bench.deliver()
    assert bench.sent() == [{b"away:1": '"1"'}]


def test_keys_between_nodes_are_asked_for_again_soon(bench: Bench) -> None:
    """What its node does not give for now waits as long as the reads say, for nobody's sake."""
    bench.fetcher.away = "later"
    bench.mark(b"a", b"away:1")
    bench.deliver()
    assert [due_ms for due_ms, _, _ in bench.lane.keys.retries] == [70]


def test_keys_that_were_not_asked_for_are_next(bench: Bench) -> None:
    """Bodies that fill a payload leave the rest unread: it is delivered next, and what waits for a node waits."""
    bench.fetcher.enough = 2
    bench.mark(b"a", b"b", b"away:1", b"c")
    bench.deliver()
    bench.fetcher.enough = 1 << 30
    assert bench.sent()[0].keys() == {b"a", b"b"}
    bench.deliver()
    assert bench.sent()[1].keys() == {b"c"}
    assert [key for _, _, batch in bench.lane.keys.retries for key, _ in batch.entries] == [b"away:1"]


def test_a_probe_asks_with_keys_that_can_be_read(bench: Bench) -> None:
    """A target that is down is asked with keys that wait for it, and not with those that wait for their node."""
    bench.mark(b"away:1")
    bench.deliver()
    bench.mark(b"a")
    bench.deliver()
    (batch,) = bench.flying()
    outcome = Outcome(Failure.SERVICE, reason="down")
    hands: Any = bench.lane._hands._dispatcher
    hands.jobs.clear()
    # Later than the others are due: what is due first is asked with first.
    later_ms = 2 * AWAY_MS
    bench.lane.complete(batch, outcome, later_ms, UNIX_MS)
    probe = bench.lane.keys.take_probe(later_ms, 10)
    assert probe is not None
    assert [key for key, _ in probe.entries] == [b"a"]


def test_nothing_is_delivered_before_its_name_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where names say what was deleted, a value waits until the disk has its key's; nothing of it is lost."""
    folder = tmp_path / "names"
    folder.write_bytes(b"in the way")
    route = msgspec.structs.replace(ROUTE, events=("hset", "del"))
    with lane_kit(tmp_path, monkeypatch) as kit:
        bench = Bench(kit, monkeypatch, route, NamesOfDelivered(str(folder)))
        bench.mark(b"a", b"b")
        assert not bench.deliver()
        assert not bench.sent()
        folder.unlink()
        bench.now_ms += AWAY_MS
        assert bench.deliver()
        assert bench.sent() == [{b"a": '"1"', b"b": '"1"'}]
        names = Names(path_of(str(folder)))
        assert names.after(None, 9) == [b"a", b"b"]
        names.close()
