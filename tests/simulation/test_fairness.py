"""A lane on scripted time, for any slots, batches and durations: keys that fail for ever and keys that are well."""

from __future__ import annotations

import heapq
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from engine.delivery.lanes import aftermath, shelving
from engine.delivery.lanes.hands import LaneKit
from engine.delivery.lanes.route_lane import RouteLane
from engine.delivery.lanes.settle import Ledger
from engine.delivery.lanes.work import Batch
from engine.delivery.reading.questions import Fetched
from engine.model import Failure, Outcome, Run
from tests.lane_bench import ROUTE, UNIX_MS, lane_kit
from tests.simulation.harness import Silent, unsync

BACKOFF_MS_MAX = 2_000
RETRYING_KEYS_MAX = 2
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
"""A case is small as it is, and takes a while."""


@dataclass(frozen=True)
class Case:
    """What a lane meets; times in ms."""

    slots: int
    batch_size: int
    poisons: int
    slow_ms: int
    """How long an invocation takes that a poisoned record is in."""
    quick_ms: int
    every_ms: int
    """How often another key changes."""
    names_records: bool
    """Whether the function names the records that failed, or raises for all."""


CASES = st.builds(
    Case,
    slots=st.integers(1, 5),
    batch_size=st.integers(1, 4),
    poisons=st.integers(1, 12),
    slow_ms=st.sampled_from([1, 50, 700, 2_100, 60_000]),
    quick_ms=st.sampled_from([1, 40, 900]),
    every_ms=st.sampled_from([10, 300, 5_000]),
    names_records=st.booleans(),
)


@dataclass
class Play:
    """One lane, whose function refuses poisoned records for ever; what is started when."""

    kit: LaneKit
    case: Case
    now_ms: int = 0
    arrived: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """Of keys that are well and not yet started: when they changed, and how many were waiting before them."""
    waited: list[tuple[int, int]] = field(default_factory=list)
    """(ms, how many were waiting before it) of each that was started."""
    tried: dict[bytes, list[int]] = field(default_factory=dict)
    retrying_most: int = 0

    def __post_init__(self) -> None:
        case = self.case
        types = ("ReportBatchItemFailures",) if case.names_records else ()
        route = msgspec.structs.replace(
            ROUTE,
            batch_size=case.batch_size,
            parallelization_factor=case.slots,
            function_response_types=types,
        )
        self.lane = RouteLane(route, self.kit)
        self.lane.shelving.is_sorted = True
        self.ledger = Ledger()
        self._ends = itertools.count(10, 10)
        self._events: list[tuple[int, int, Batch | None]] = []
        self._order = itertools.count()

    def run(self, starts_max: int, aside: int) -> None:
        """Poison first, each in a batch of its own; then keys that are well, one after another.

        Ends early once so many keys were set ``aside``.
        """
        for number in range(self.case.poisons):
            self._mark(b"poison:%d" % number)
            self._start()
        heapq.heappush(self._events, (1, next(self._order), None))
        starts = 0
        while starts < starts_max and self.kit.backlog.keys_set_aside() < aside:
            starts += self._step()

    def _step(self) -> int:
        due_ms = self.lane.next_due_ms(self.now_ms) or 1 << 62
        if self._events:
            due_ms = min(due_ms, self._events[0][0])
        # The loop looks at least so often, and what is on disk has no other wake-up.
        self.now_ms = max(self.now_ms, min(due_ms, self.now_ms + 500))
        while self._events and self._events[0][0] <= self.now_ms:
            self._happens(heapq.heappop(self._events)[2])
        return self._start()

    def _happens(self, batch: Batch | None) -> None:
        if batch is not None:
            self.lane.complete(batch, self._outcome(batch), self.now_ms, UNIX_MS + self.now_ms)
            return
        key = b"well:%d" % (len(self.waited) + len(self.arrived))
        self.arrived[key] = (self.now_ms, len(self.arrived))
        self._mark(key)
        every_ms = max(self.case.every_ms, self.case.slow_ms // 10)
        heapq.heappush(self._events, (self.now_ms + every_ms, next(self._order), None))

    def _outcome(self, batch: Batch) -> Outcome:
        bad = tuple(str(index) for index, entry in enumerate(batch.sent) if entry[0].startswith(b"poison"))
        if bad and self.case.names_records:
            return Outcome(Failure.ITEMS, bad, "named")
        return Outcome(Failure.FUNCTION_ERROR, reason="raised") if bad else Outcome()

    def _mark(self, key: bytes) -> None:
        self.lane.keys.add([Run("hset", 1, UNIX_MS, [key])], self.ledger.add(next(self._ends)), self.now_ms)

    def _start(self) -> int:
        started = 0
        while True:
            self.lane.take_back(self.now_ms)
            self.retrying_most = max(self.retrying_most, self.lane.keys.retrying_keys)
            batch = self.lane.take(self.now_ms)
            if batch is None:
                return started
            started += 1
            values = [Fetched(key, "hash", "{}", "", 7) for key, _ in batch.entries]
            self.lane.send(batch, values, self.now_ms, UNIX_MS + self.now_ms)
            self._note(batch)

    def _note(self, batch: Batch) -> None:
        keys = [key for key, _ in batch.entries]
        is_slow = any(key.startswith(b"poison") for key in keys)
        took_ms = self.case.slow_ms if is_slow else self.case.quick_ms
        heapq.heappush(self._events, (self.now_ms + took_ms, next(self._order), batch))
        for key in keys:
            if key.startswith(b"poison"):
                self.tried.setdefault(key, []).append(self.now_ms)
            elif key in self.arrived:
                since_ms, before = self.arrived.pop(key)
                self.waited.append((self.now_ms - since_ms, before))


@contextmanager
def played(case: Case, *, starts_max: int = 120, set_aside_attempts: int = 1_000_000) -> Iterator[Play]:
    """Yield a lane that has been through so many starts."""
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        lane_kit(Path(folder), patch) as kit,
    ):
        unsync(patch)
        patch.setattr(aftermath, "log", Silent())
        patch.setattr(shelving, "log", Silent())
        delivery = msgspec.structs.replace(
            kit.delivery,
            retry_backoff_ms_max=BACKOFF_MS_MAX,
            retrying_keys_max=RETRYING_KEYS_MAX,
            set_aside_attempts=set_aside_attempts,
            set_aside_backoff_ms_max=86_400_000,
        )
        play = Play(replace(kit, delivery=delivery), case)
        play.run(starts_max, case.poisons)
        yield play


@settings(max_examples=40, deadline=None, phases=UNSHRUNK)
@given(case=CASES)
@example(case=Case(1, 1, 4, slow_ms=2_100, quick_ms=40, every_ms=300, names_records=True))
@example(case=Case(2, 4, 4, slow_ms=60_000, quick_ms=40, every_ms=300, names_records=False))
def test_keys_that_are_well_wait_for_no_more_than_their_turn(case: Case) -> None:
    """However slow the failures are: of two starts one is of keys that wait, and they keep their order."""
    with played(case) as play:
        longest_ms = max(case.slow_ms, case.quick_ms)
        still = [(play.now_ms - since_ms, before) for since_ms, before in play.arrived.values()]
        for waited_ms, before in [*play.waited, *still]:
            batches = before // case.batch_size + 2 + case.poisons
            assert waited_ms <= 2 * batches * longest_ms + BACKOFF_MS_MAX, f"{case}: {before} before it"


@settings(max_examples=40, deadline=None, phases=UNSHRUNK)
@given(case=CASES)
def test_keys_that_fail_are_tried_again_under_any_load(case: Case) -> None:
    """Keys that are well and never stop coming starve no key that failed: each is tried again, again and again."""
    with played(case) as play:
        longest_ms = max(case.slow_ms, case.quick_ms)
        turn_ms = 2 * (case.poisons + 2) * longest_ms + 2 * BACKOFF_MS_MAX + 4 * 500 * case.poisons
        for key, moments in play.tried.items():
            gaps = [later - earlier for earlier, later in itertools.pairwise([*moments, play.now_ms])]
            assert max(gaps) <= 2 * turn_ms, f"{case}: {key!r} at {moments}"


@settings(max_examples=40, deadline=None, phases=UNSHRUNK)
@given(case=CASES)
def test_retries_in_memory_are_bounded(case: Case) -> None:
    """Whatever takes its turns: past the bound keys that failed wait on disk, and are not taken back for nothing."""
    with played(case) as play:
        assert play.retrying_most <= RETRYING_KEYS_MAX + case.batch_size * (case.slots + 2)


@settings(max_examples=20, deadline=None, phases=UNSHRUNK)
@given(case=CASES)
def test_keys_that_keep_failing_end_on_disk(case: Case) -> None:
    """Where others are delivered, each of them gets there, named alone or cut out of its batches."""
    with played(case, starts_max=4_000, set_aside_attempts=3) as play:
        assert play.kit.backlog.keys_set_aside() == case.poisons
