from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import orjson
import pytest

from engine.config import RouteSettings
from engine.delivery.dispatch import Burial
from engine.delivery.lanes.hands import LaneKit
from engine.delivery.lanes.route_lane import RouteLane
from engine.delivery.lanes.settle import Ledger
from engine.delivery.lanes.work import Batch
from engine.delivery.reading.questions import Fetched
from engine.model import Failure, Outcome, Run
from engine.ring.counters import Counter
from tests.lane_bench import ROUTE, UNIX_MS, Hands, lane_kit

LOST = Outcome(Failure.CONNECTION, reason="reset", is_lost=True)
REFUSED = Outcome(Failure.REFUSED, reason="no such function")
RAISED = Outcome(Failure.FUNCTION_ERROR, reason="raised")


class Bench:
    """A lane, its ring's ledger, and what it gave to its hands."""

    def __init__(self, kit: LaneKit, route: RouteSettings) -> None:
        self.kit = kit
        self.lane = RouteLane(route, kit)
        self.lane.shelving.is_sorted = True
        self.ledger = Ledger()
        self._end = 0

    @property
    def jobs(self) -> list[Batch | Burial]:
        hands = self.lane._hands._dispatcher
        assert isinstance(hands, Hands)
        return hands.jobs

    def mark(self, *keys: bytes, event: str = "hset", captured_ms: int = UNIX_MS) -> None:
        self._end += 10
        self.lane.keys.add([Run(event, 1, captured_ms, [*keys])], self.ledger.add(self._end), 0)

    def send(self, at_ms: int = 0, body: str | None = "{}") -> Batch:
        """Take a batch, read it and send it."""
        batch = self.lane.take(at_ms)
        assert batch is not None
        values = [Fetched(key, "hash", body, "", 7) for key, _ in batch.entries]
        self.lane.send(batch, values, at_ms, UNIX_MS + at_ms)
        return batch

    def end(self, batch: Batch, outcome: Outcome, at_ms: int) -> None:
        self.lane.complete(batch, outcome, at_ms, UNIX_MS + at_ms)

    def due_ms(self) -> list[int]:
        return sorted(due_ms for due_ms, _, _ in self.lane.keys.retries)


Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Yield what makes a lane of `ROUTE` with other options; all share one backlog."""
    with lane_kit(tmp_path / "backlog", monkeypatch) as kit:
        yield lambda **options: Bench(kit, msgspec.structs.replace(ROUTE, **options))


def test_what_is_accepted_is_settled(make: Make) -> None:
    """A success gives the ring back, and leaves nothing."""
    bench = make()
    bench.mark(b"a", b"b")
    bench.end(bench.send(), Outcome(), 5)
    assert bench.ledger.settled() == 10
    assert bench.lane.keys.is_idle()
    assert bench.lane.keys.invocations == 0


def test_a_batch_says_until_when_it_may_write(make: Make) -> None:
    """The deadline goes with the payload; the fence, later by the margin, is in the row before the batch is sent."""
    bench = make()
    bench.mark(b"a")
    batch = bench.send(at_ms=50)
    assert orjson.loads(batch.payload)["deadline_ms"] == UNIX_MS + 1_000
    assert batch.fence_ms == 50 + 1_400
    assert bench.kit.row.get(Counter.FENCE_MS) == bench.lane.fences.until_ms() == 1_450


def test_an_originals_function_knows_no_deadline(make: Make) -> None:
    """It may write for as long as it may run, and gets one record at a time."""
    bench = make(payload="original")
    bench.mark(b"a", b"b")
    batch = bench.send()
    assert batch.fence_ms == 9_000
    assert len(batch.sent) == 1


def test_a_lost_batch_waits_for_its_fence(make: Make) -> None:
    """Nobody knows whether it still writes: its keys are not sent again before it can't any more."""
    bench = make()
    bench.mark(b"a")
    bench.end(bench.send(), LOST, 20)
    assert bench.due_ms() == [1_400]
    assert bench.lane.fences.until_ms() == 1_400
    assert bench.lane.take(1_399) is None
    again = bench.lane.take(max(1_400, bench.lane.keys.paused_until_ms))
    assert again is not None


def test_a_batch_that_has_ended_does_not_wait_for_its_fence(make: Make) -> None:
    """A function that answered writes nothing more."""
    bench = make()
    bench.mark(b"a")
    bench.end(bench.send(), RAISED, 20)
    assert bench.due_ms()[0] < 1_400
    assert bench.lane.fences.until_ms() == 0


def test_only_what_failed_is_sent_again(make: Make) -> None:
    """The records that are named come again, the others are settled."""
    bench = make()
    bench.mark(b"a", b"b", b"c")
    bench.end(bench.send(), Outcome(Failure.ITEMS, ("1",), "one failed"), 20)
    assert bench.lane.keys.in_flight == {b"b"}
    again = bench.lane.take(5_000)
    assert again is not None
    assert [key for key, _ in again.entries] == [b"b"]
    assert again.attempts == 1


def test_a_key_that_changed_meanwhile_is_read_again(make: Make) -> None:
    """What comes while a key is in flight is delivered after it, and once."""
    bench = make()
    bench.mark(b"a")
    batch = bench.send()
    bench.mark(b"a")
    assert bench.lane.take(10) is None
    bench.end(batch, Outcome(), 20)
    assert bench.ledger.settled() == 10
    bench.end(bench.send(at_ms=20), Outcome(), 30)
    assert bench.ledger.settled() == 20
    assert bench.lane.keys.is_idle()


def test_an_outage_pauses_the_lane_and_counts_for_nobody(make: Make) -> None:
    """Nothing else is sent before the wait is over, and no attempt of the records is used up."""
    bench = make(maximum_retry_attempts=0)
    bench.mark(b"a")
    bench.end(bench.send(), REFUSED, 20)
    bench.mark(b"b")
    assert bench.lane.take(20) is None
    assert bench.lane.health.is_troubled
    assert bench.lane.keys.paused_until_ms > 20
    again = bench.lane.take(5_000)
    assert again is not None
    assert again.attempts == 0


def test_a_wish_of_the_service_is_heeded(make: Make) -> None:
    """A throttle that says when to come back is believed where that is later."""
    bench = make()
    bench.mark(b"a")
    bench.end(bench.send(), Outcome(Failure.THROTTLED, reason="429", retry_after_ms=7_000), 20)
    assert bench.lane.keys.paused_until_ms == 7_020
    assert bench.lane.keys.slots == 1


def test_what_is_given_up_is_in_flight_until_it_is_kept(make: Make) -> None:
    """Past the attempts the records go to the place for failures; the ring is held until they are there."""
    bench = make(maximum_retry_attempts=0)
    bench.mark(b"a")
    bench.end(bench.send(), RAISED, 20)
    burial = bench.jobs[-1]
    assert isinstance(burial, Burial)
    assert bench.ledger.settled() is None
    bench.lane.buried(burial, "the disk is full", 30)
    assert bench.ledger.settled() is None
    assert bench.due_ms() == [2_030]
    bench.lane.buried(burial, "", 40)
    assert bench.ledger.settled() == 10
    assert bench.kit.row.get(Counter.DEAD_LETTERS) == 1


def test_what_is_too_old_is_given_up_alone(make: Make) -> None:
    """Of a batch that failed, the records past their age are buried, the others tried again."""
    bench = make(maximum_record_age_in_seconds=60)
    bench.mark(b"old", captured_ms=UNIX_MS - 60_001)
    bench.mark(b"new")
    bench.end(bench.send(), RAISED, 0)
    burial = bench.jobs[-1]
    assert isinstance(burial, Burial)
    assert [key for key, _ in burial.entries] == [b"old"]
    assert [key for _, _, batch in bench.lane.keys.retries for key, _ in batch.entries] == [b"new"]


def test_a_failed_batch_is_cut_in_two(make: Make) -> None:
    """Where the route wants that, and where a payload is too large; to be cut is no attempt."""
    for options, outcome in (
        ({"bisect_batch_on_function_error": True}, RAISED),
        ({}, Outcome(Failure.OVERSIZE, reason="413")),
    ):
        bench = make(**options)
        bench.mark(b"a", b"b", b"c")
        bench.end(bench.send(), outcome, 20)
        halves = [(len(batch.entries), batch.attempts) for _, _, batch in bench.lane.keys.retries]
        assert sorted(halves) == [(1, 0), (2, 0)]


def test_one_record_that_is_too_large_is_given_up(make: Make) -> None:
    """There is nothing left to cut."""
    bench = make()
    bench.mark(b"a")
    bench.end(bench.send(), Outcome(Failure.OVERSIZE, reason="413"), 20)
    assert isinstance(bench.jobs[-1], Burial)


def test_a_key_that_is_gone_needs_no_delivery(make: Make) -> None:
    """A route that does not list deletes settles it unsent; one that does sends it."""
    bench = make()
    bench.mark(b"a")
    bench.send(body=None)
    assert (bench.jobs, bench.ledger.settled()) == ([], 10)
    listing = make(events=("hset", "del"))
    listing.mark(b"a", event="del")
    assert listing.send(body=None).sent


def test_retries_wait_on_disk_past_the_bound(make: Make) -> None:
    """Memory keeps so many failed keys; the next batch waits on disk, and its ring is free."""
    bench = make(batch_size=2, parallelization_factor=2)
    bench.mark(b"a", b"b")
    bench.mark(b"c", b"d")
    first, second = bench.send(), bench.send()
    bench.end(first, RAISED, 20)
    bench.end(second, RAISED, 20)
    assert bench.lane.keys.retrying_keys == 2
    assert len(bench.lane.shelf) == 2
    assert bench.lane.keys.in_flight == {b"a", b"b"}
    bench.lane.take_back(10_000)
    taken = {key for _, _, batch in bench.lane.keys.retries for key, _ in batch.entries}
    assert taken == {b"a", b"b", b"c", b"d"}


def test_a_lost_batch_never_waits_on_disk(make: Make) -> None:
    """Its fence is known to memory alone: on disk its keys could be taken too early."""
    bench = make(batch_size=2, parallelization_factor=2)
    bench.mark(b"a", b"b")
    bench.mark(b"c", b"d")
    first, second = bench.send(), bench.send()
    bench.end(first, LOST, 20)
    bench.end(second, LOST, 20)
    assert bench.lane.keys.retrying_keys == 4
    assert len(bench.lane.shelf) == 0


def test_a_drain_moves_everything_to_disk(make: Make) -> None:
    """Once nothing is in flight, what waits and what is retried has a row, and the lane is idle."""
    bench = make(batch_size=2)
    bench.mark(b"a", b"b", b"c")
    batch = bench.send()
    bench.lane.empty_out(10)
    assert not bench.lane.keys.is_idle()
    bench.end(batch, REFUSED, 20)
    bench.lane.empty_out(2_000)
    assert bench.lane.keys.is_idle()
    assert bench.ledger.settled() == 10
    assert len(bench.lane.shelf) == 3


def test_a_new_function_is_tried_at_once(make: Make) -> None:
    """The pause of a route that was changed was its old function's; keys in flight still keep their next value back."""
    bench = make()
    bench.mark(b"a")
    bench.end(bench.send(), REFUSED, 20)
    bench.mark(b"b")
    bench.lane.use(msgspec.structs.replace(ROUTE, function="g"))
    assert not bench.lane.health.is_troubled
    taken = bench.lane.take(21)
    assert taken is not None
    assert [key for key, _ in taken.entries] == [b"b"]
    assert b"a" in bench.lane.keys.in_flight


def test_keys_on_disk_have_their_turn_under_load(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """While more waits in memory than the lane can send, one batch in some is of keys from disk."""
    monkeypatch.setattr("engine.delivery.lanes.shelving.WAITING_BATCHES_MAX", 1)
    bench = make(batch_size=1)
    bench.mark(b"old")
    bench.lane.shelve(0, is_stuck=True)
    assert not bench.lane.keys.waiting
    bench.mark(*(b"new:%d" % number for number in range(50)))
    sent: list[bytes] = []
    while len(sent) < 30:
        bench.lane.take_back(0)
        batch = bench.send()
        sent += [key for key, _ in batch.entries]
        bench.end(batch, Outcome(), 0)
        if len(sent) == 11:
            assert b"old" in bench.lane.keys.waiting
    assert not bench.lane.shelf or b"old" in bench.lane.keys.waiting
