"""`skip_unchanged`: what was accepted last is not delivered again, and everything else is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from engine.config import RouteSettings
from engine.delivery import unchanged
from engine.delivery.backlog.rows import BacklogRow
from engine.delivery.dispatch import Burial
from engine.delivery.lanes.hands import Home, LaneKit
from engine.delivery.lanes.lanes import adopt, inherit
from engine.delivery.lanes.route_lane import RouteLane
from engine.delivery.lanes.settle import Frame, Ledger
from engine.delivery.lanes.work import Batch, Cause
from engine.delivery.reading.questions import Fetched
from engine.digests.table import DigestTable
from engine.model import Failure, Outcome, Run
from engine.ring.counters import Counter
from tests.lane_bench import ROUTE, UNIX_MS, Hands, lane_kit
from tests.simulation.harness import kill_table

SKIPPING = msgspec.structs.replace(ROUTE, skip_unchanged=True, events=("hset", "del"))
LOST = Outcome(Failure.CONNECTION, reason="reset", is_lost=True)
RAISED = Outcome(Failure.FUNCTION_ERROR, reason="raised")
LATER_MS = 50_000


class Bench:
    """A lane that skips what is unchanged; `deliver` is a change from its frame to its end."""

    def __init__(self, kit: LaneKit, route: RouteSettings) -> None:
        self.kit = kit
        self.lane = RouteLane(route, kit)
        self.lane.shelving.is_sorted = True
        self.ledger = Ledger()
        self._end = 0
        self.at_ms = 0

    @property
    def jobs(self) -> list[Batch | Burial]:
        hands = self.lane._hands._dispatcher
        assert isinstance(hands, Hands)
        return hands.jobs

    def mark(self, *keys: bytes, event: str = "hset") -> None:
        self._end += 10
        self.lane.keys.add([Run(event, 1, UNIX_MS, [*keys])], self.ledger.add(self._end), self.at_ms)

    def send(self, body: str | None, **options: object) -> Batch | None:
        """Read what waits and send it; return what was sent, None where that was nothing."""
        self.at_ms += LATER_MS
        batch = self.lane.take(self.at_ms)
        assert batch is not None
        kind = "none" if body is None else "hash"
        values = [msgspec.structs.replace(Fetched(key, kind, body, "", 7), **options) for key, _ in batch.entries]
        before = len(self.jobs)
        self.lane.send(batch, values, self.at_ms, UNIX_MS)
        sent = self.jobs[before:]
        return sent[0] if sent and isinstance(sent[0], Batch) else None

    def end(self, batch: Batch, outcome: Outcome = Outcome()) -> None:  # noqa: B008
        self.lane.complete(batch, outcome, self.at_ms, UNIX_MS)

    def deliver(self, body: str | None, key: bytes = b"a", **options: object) -> bool:
        """Tell whether a change to this value was delivered."""
        self.mark(key, event="hset" if body is not None else "del")
        batch = self.send(body, **options)
        if batch is not None:
            self.end(batch)
        assert self.lane.keys.is_idle()
        assert self.ledger.settled() == self._end, "a key that was skipped is settled"
        return batch is not None

    def killed(self) -> None:
        """End as a killed process does; `Bench` of the same kit is its successor."""
        kill_table(self.lane.unchanged._table)


Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Yield what makes a lane with other options; all share one backlog, and so its folder."""
    with lane_kit(tmp_path / "backlog", monkeypatch) as kit:
        small = msgspec.structs.replace(kit.delivery, digest_bytes_max=16_384)
        kit = LaneKit(kit.database, small, kit.aws, kit.backlog, kit.row, kit.done, kit.wake, kit.sockets)
        yield lambda **options: Bench(kit, msgspec.structs.replace(SKIPPING, **options))


def test_what_was_accepted_last_is_not_delivered_again(make: Make) -> None:
    """An equal value is settled without an invocation, and counted; another is delivered, and the first after it."""
    bench = make()
    assert bench.deliver('{"n":"1"}')
    assert not bench.deliver('{"n":"1"}')
    assert bench.kit.row.get(Counter.SKIPPED_UNCHANGED) == 1
    assert bench.kit.row.get(Counter.RECORDS_DELIVERED) == 1
    assert bench.deliver('{"n":"2"}')
    assert bench.deliver('{"n":"1"}')


def test_a_deletion_is_a_value(make: Make) -> None:
    """A deletion that was accepted is not delivered again; what comes after it is."""
    bench = make()
    assert bench.deliver('{"n":"1"}')
    assert bench.deliver(None)
    assert not bench.deliver(None)
    assert bench.deliver('{"n":"1"}')


@pytest.mark.parametrize("options", [{"type": "string"}, {"body_encoding": "base64"}])
def test_all_of_the_record_counts(options: dict[str, object], make: Make) -> None:
    """The same text of another type, or encoded otherwise, is another value."""
    bench = make()
    assert bench.deliver('"x"')
    assert bench.deliver('"x"', **options)


@pytest.mark.parametrize("include_expiry", [False, True])
def test_an_expiry_counts_where_the_record_has_it(include_expiry: bool, make: Make) -> None:
    """A session that is touched is delivered only where its record says when it expires."""
    bench = make(include_expiry=include_expiry)
    assert bench.deliver("{}", expires_at_ms=1_000)
    assert bench.deliver("{}", expires_at_ms=2_000) is include_expiry


def test_of_a_batch_only_what_changed_is_sent(make: Make) -> None:
    """The others are settled beside it, each in its own frame."""
    bench = make()
    bench.mark(b"a", b"b", b"c")
    batch = bench.send("{}")
    assert batch is not None
    bench.end(batch)
    bench.mark(b"a", b"b", b"c")
    bench.lane.force([b"b"])
    batch = bench.send("{}")
    assert batch is not None
    assert [key for key, _ in batch.sent] == [b"b"]
    assert bench.lane.keys.in_flight == {b"b"}
    bench.end(batch)
    assert bench.ledger.settled() == 20


@pytest.mark.parametrize("outcome", [LOST, RAISED, Outcome(Failure.ITEMS, ("0",), "one failed")])
@pytest.mark.parametrize("after", ["1", "2"])
def test_what_was_sent_and_not_accepted_makes_the_last_value_unknown(after: str, outcome: Outcome, make: Make) -> None:
    """It may have been written, or not: it is delivered again, and so is the value before it."""
    bench = make()
    assert bench.deliver("1")
    bench.mark(b"a")
    batch = bench.send("2")
    assert batch is not None
    bench.end(batch, outcome)
    batch = bench.send(after)
    assert batch is not None, "it was skipped, though nobody knows what the destination holds"
    bench.end(batch)
    assert not bench.deliver(after)


def test_a_killed_process_leaves_what_it_had_in_flight_unknown(make: Make) -> None:
    """Before it is sent the digest is void, in the file too: a successor delivers the value before it again."""
    bench = make()
    assert bench.deliver("1", b"a")
    assert bench.deliver("1", b"b")
    bench.mark(b"a")
    assert bench.send("2") is not None
    bench.killed()
    successor = make()
    assert successor.deliver("1", b"a")
    assert not successor.deliver("1", b"b")


def test_a_dead_letter_is_no_delivery(make: Make) -> None:
    """What was given up on is delivered when it comes again, and so is what was there before it."""
    bench = make(maximum_retry_attempts=0)
    assert bench.deliver("1")
    bench.mark(b"a")
    batch = bench.send("2")
    assert batch is not None
    bench.end(batch, RAISED)
    burial = bench.jobs[-1]
    assert isinstance(burial, Burial)
    bench.lane.buried(burial, "", bench.at_ms)
    assert bench.deliver("1")
    assert bench.deliver("2")


def test_what_is_marked_by_an_audit_is_delivered(make: Make) -> None:
    """A mark is no value: whoever finds something missing knows more than the digest."""
    bench = make()
    assert bench.deliver("1")
    bench.lane.force([b"a"])
    assert bench.deliver("1")
    assert not bench.deliver("1")


def test_a_mark_reaches_what_is_in_flight(make: Make) -> None:
    """What is accepted after the mark came was sent before it: it says nothing of what was lost in between."""
    bench = make()
    bench.mark(b"a", b"b")
    batch = bench.send("1")
    assert batch is not None
    bench.lane.force([b"a"])
    bench.mark(b"a")
    bench.end(batch)
    batch = bench.send("1")
    assert batch is not None, "what was accepted before it was found missing is taken for what is there"
    assert [key for key, _ in batch.sent] == [b"a"]


def test_lost_marks_make_everything_unknown(make: Make) -> None:
    """Where a ring was damaged nobody knows what was marked: all is delivered once more, what is in flight too."""
    bench = make()
    assert bench.deliver("1", b"a")
    bench.mark(b"b")
    batch = bench.send("1")
    assert batch is not None
    bench.lane.unchanged.distrust(bench.lane.fences.flying)
    bench.end(batch)
    assert bench.deliver("1", b"a")
    assert bench.deliver("1", b"b")


def test_another_function_has_accepted_nothing(make: Make) -> None:
    """With another target all digests are void, also those of what is on its way to the first one."""
    bench = make()
    assert bench.deliver("1", b"a")
    bench.mark(b"b")
    batch = bench.send("1")
    assert batch is not None
    bench.lane.use(msgspec.structs.replace(SKIPPING, function="g"))
    bench.end(batch)
    assert bench.deliver("1", b"a")
    assert bench.deliver("1", b"b")


def test_other_limits_change_nothing(make: Make) -> None:
    """A route that is only sent otherwise keeps its digests."""
    bench = make()
    assert bench.deliver("1")
    bench.lane.use(msgspec.structs.replace(SKIPPING, batch_size=2, maximum_retry_attempts=3))
    assert not bench.deliver("1")


def test_switched_off_it_forgets(make: Make) -> None:
    """What is accepted while it is off is not known: switched on again, it begins anew."""
    bench = make()
    assert bench.deliver("1")
    bench.lane.use(msgspec.structs.replace(SKIPPING, skip_unchanged=False))
    assert bench.deliver("2")
    bench.lane.use(SKIPPING)
    assert bench.deliver("1")


def test_a_start_without_it_forgets(make: Make) -> None:
    """The same over a restart."""
    bench = make()
    assert bench.deliver("1")
    bench.lane.unchanged.close()
    assert make(skip_unchanged=False).deliver("2")
    assert make().deliver("1")


def test_a_restart_remembers(make: Make) -> None:
    """What a repair finds after a restart is delivered only where it changed."""
    bench = make()
    assert bench.deliver("1", b"a")
    assert bench.deliver("1", b"b")
    bench.lane.unchanged.close()
    after = make()
    assert not after.deliver("1", b"a")
    assert after.deliver("2", b"b")


def test_keys_of_another_route_are_delivered(make: Make) -> None:
    """What another route leaves behind it may have sent something else meanwhile."""
    bench = make()
    assert bench.deliver("1")
    inherit(bench.lane, (b"a", Cause("hset", UNIX_MS, Frame(5))), 0)
    batch = bench.send("1")
    assert batch is not None
    bench.end(batch)
    assert bench.deliver("1", b"b")
    assert not adopt(bench.lane, [BacklogRow(b"b", "hset", UNIX_MS, 0, 0, "", 0)], 0)
    assert bench.deliver("1", b"b")


def test_more_invokers_begin_anew(make: Make) -> None:
    """A key may be with another invoker then, and that one knows nothing of this file."""
    bench = make()
    assert bench.deliver("1")
    bench.lane.unchanged.close()
    kit = bench.kit
    other = LaneKit(
        kit.database, kit.delivery, kit.aws, kit.backlog, kit.row, kit.done, kit.wake, kit.sockets, Home(0, 2, "0/1")
    )
    assert Bench(other, SKIPPING).deliver("1")


def test_a_value_that_can_not_be_read_is_no_value(make: Make) -> None:
    """It is neither equal to anything, nor what was accepted."""
    bench = make()
    assert bench.deliver("1")
    bench.mark(b"a")
    assert bench.send("1", error="NOPERM", passes=True) is None
    assert bench.kit.row.get(Counter.SKIPPED_UNCHANGED) == 0


def test_without_a_file_everything_is_delivered(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has no room costs what was to be saved, and nothing else; what lay there is not believed later."""
    bench = make()
    assert bench.deliver("1")
    bench.lane.unchanged.close()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unchanged, "DigestTable", refuse)
    poor = make()
    assert poor.deliver("1")
    assert poor.deliver("1")
    assert poor.deliver("2")
    monkeypatch.setattr(unchanged, "DigestTable", DigestTable)
    assert make().deliver("1")
