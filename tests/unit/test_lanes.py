from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine.config import RouteSettings
from engine.delivery.backlog.rows import BacklogRow
from engine.delivery.lanes.hands import LaneKit
from engine.delivery.lanes.lanes import Lanes
from engine.delivery.lanes.route_lane import RouteLane
from engine.delivery.lanes.settle import Frame, Ledger
from engine.delivery.lanes.work import Batch
from engine.delivery.reading.questions import Fetched
from engine.model import Failure, Outcome, Run
from engine.routing.routes import RouteTable
from tests.lane_bench import ROUTE, UNIX_MS, lane_kit

DOWN = Outcome(Failure.SERVICE, reason="503")
LOST = Outcome(Failure.TIMEOUT, reason="no answer", is_lost=True)
DELETES = ("hset", "del")


def route(name: str, *keys: str, **options: object) -> RouteSettings:
    return msgspec.structs.replace(ROUTE, name=name, keys=keys or ("*",), **options)


class Rig:
    """The lanes of an invoker over reloads, and the ledger of its one ring."""

    def __init__(self, kit: LaneKit) -> None:
        self.kit = kit
        self.lanes = Lanes(kit)
        self.ledger = Ledger()
        self.table: RouteTable | None = None
        self._ends = itertools.count(10, 10)

    def load(self, *routes: RouteSettings, at_ms: int = 0, shelf_pause_ms: int = 0) -> None:
        self.table = RouteTable.build(routes, self.table)
        self.lanes.set_routes(self.table, at_ms, 0, shelf_pause_ms)

    def lane(self, name: str) -> RouteLane:
        return next(lane for lane in self.lanes.in_force.values() if lane.route.name == name)

    def frame(self) -> Frame:
        return self.ledger.add(next(self._ends))

    def mark(self, *keys: bytes, slot: int, event: str = "hset", at_ms: int = 0) -> None:
        frame = self.frame()
        for lane, mine in self.lanes.share_out([Run(event, 1 << slot, UNIX_MS, [*keys])]):
            lane.keys.add(mine, frame, at_ms)

    def send(self, lane: RouteLane, at_ms: int = 0, body: str | None = "{}") -> Batch:
        batch = lane.take(at_ms)
        assert batch is not None
        lane.send(batch, [Fetched(key, "hash", body, "", 7) for key, _ in batch.entries], at_ms, UNIX_MS)
        return batch

    def end(self, lane: RouteLane, batch: Batch, outcome: Outcome, at_ms: int) -> None:
        lane.complete(batch, outcome, at_ms, UNIX_MS)
        if lane.retired_by:
            self.lanes.hand_on(lane, at_ms)
        self.lanes.close_retired(at_ms)

    def sort(self, at_ms: int = 0) -> None:
        while self.lanes.sort_shelves(at_ms):
            pass

    def rows(self, name: str) -> set[bytes]:
        self.kit.backlog.flush()
        return {row.key for rows in self.kit.backlog.rows(name) for row in rows}

    def put(self, name: str, *keys: bytes, event: str = "hset") -> None:
        assert self.kit.backlog.put(name, [BacklogRow(key, event, UNIX_MS, 0, 0) for key in keys]) == ""


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with lane_kit(tmp_path / "backlog", monkeypatch) as kit:
        yield Rig(kit)


def keys_of(batch: Batch | None) -> list[bytes]:
    assert batch is not None
    return [key for key, _ in batch.entries]


def events_of(lane: RouteLane) -> dict[bytes, str]:
    return {key: cause.event for key, cause in lane.keys.waiting.items()}


def test_what_waits_goes_to_the_routes_that_want_it(rig: Rig) -> None:
    """A route is cut in two: each part has its keys at once, and the old lane is gone."""
    rig.load(route("all"))
    rig.mark(b"a1", b"b1", slot=0)
    rig.load(route("all", "a*"), route("rest", "b*"))
    assert list(rig.lane("all").keys.waiting) == [b"a1"]
    assert list(rig.lane("rest").keys.waiting) == [b"b1"]
    assert rig.ledger.settled() is None
    rig.lanes.close_retired(0)
    assert rig.lanes.retired == []


def test_successors_wait_for_what_is_in_flight(rig: Rig) -> None:
    """Nothing that a retired lane may still write is sent by another; what failed there is sent after it."""
    rig.load(route("old"))
    old = rig.lane("old")
    rig.mark(b"a", slot=0)
    batch = rig.send(old)
    rig.load(route("new"))
    new = rig.lane("new")
    rig.mark(b"a", b"b", slot=1)
    assert new.take(5) is None
    rig.end(old, batch, DOWN, 20)
    assert keys_of(new.take(100)) == [b"a", b"b"]
    assert rig.lanes.retired == []


def test_successors_wait_for_the_fence_of_a_lost_invocation(rig: Rig) -> None:
    """An invocation that nobody waits for any more may write until its deadline: the new lane waits for that."""
    rig.load(route("old"))
    old = rig.lane("old")
    rig.mark(b"a", slot=0)
    batch = rig.send(old)
    rig.load(route("new"))
    rig.end(old, batch, LOST, 20)
    assert rig.lane("new").take(batch.fence_ms - 1) is None
    assert keys_of(rig.lane("new").take(batch.fence_ms + 100)) == [b"a"]


def test_a_route_that_comes_back_waits_as_well(rig: Rig) -> None:
    """Its lane of before may have its keys in flight; what that could not deliver comes to the new one."""
    rig.load(route("one"), route("other", "z*"))
    before = rig.lane("one")
    rig.mark(b"a", slot=0)
    batch = rig.send(before)
    rig.load(route("other", "z*"))
    rig.load(route("one"), route("other", "z*"))
    again = rig.lane("one")
    rig.mark(b"a", slot=0)
    assert again is not before
    assert again.take(5) is None
    rig.end(before, batch, DOWN, 20)
    assert keys_of(again.take(100)) == [b"a"]


def test_a_changed_function_keeps_its_lane(rig: Rig) -> None:
    """Where keys and events are the same, nothing changes hands."""
    rig.load(route("carts"))
    lane = rig.lane("carts")
    rig.mark(b"a", slot=0)
    rig.load(route("carts", function="g", batch_size=9))
    assert rig.lane("carts") is lane
    assert lane.keys.batch_size == 9
    assert keys_of(lane.take(0)) == [b"a"]


def test_what_nobody_wants_lets_go_of_its_ring(rig: Rig) -> None:
    """A route that is removed holds up no ring: what it has not sent is dropped."""
    rig.load(route("one"), route("other", "z*"))
    rig.mark(b"a", slot=0)
    rig.load(route("other", "z*"))
    assert rig.ledger.settled() == 10


def test_late_marks_of_a_route_that_went_find_those_that_want_them(rig: Rig) -> None:
    """Subscribers learn of new routes later: what they mark by the old ones is for whoever wants it now."""
    rig.load(route("all"), route("other", "b*"))
    rig.load(route("all", "a*"), route("rest", "b*"), route("other", "b*"))
    rig.mark(b"a1", b"b1", slot=0)
    assert list(rig.lane("all").keys.waiting) == [b"a1"]
    assert list(rig.lane("rest").keys.waiting) == [b"b1"]


def test_an_inherited_key_hides_no_delete(rig: Rig) -> None:
    """The successor knows that a key went; what it inherits says that it was set, earlier: the delete is told."""
    rig.load(route("old", events=DELETES))
    old = rig.lane("old")
    rig.mark(b"a", slot=0)
    batch = rig.send(old)
    rig.load(route("new", events=DELETES))
    rig.mark(b"a", slot=1, event="del")
    rig.end(old, batch, DOWN, 20)
    assert events_of(rig.lane("new")) == {b"a": "del"}


def test_an_inherited_delete_is_told(rig: Rig) -> None:
    """A delete that was not delivered is told though the successor knows of another change."""
    rig.load(route("old", events=DELETES))
    old = rig.lane("old")
    rig.mark(b"a", slot=0, event="del")
    batch = rig.send(old, body=None)
    rig.load(route("new", events=DELETES))
    rig.mark(b"a", slot=1)
    rig.end(old, batch, DOWN, 20)
    assert events_of(rig.lane("new")) == {b"a": "del"}


def test_an_inherited_key_holds_its_oldest_frame(rig: Rig) -> None:
    """A watermark behind the older change is not believed before the key is delivered."""
    rig.load(route("old"))
    old = rig.lane("old")
    rig.mark(b"a", slot=0)
    batch = rig.send(old)
    rig.load(route("new"))
    rig.mark(b"a", slot=1)
    rig.end(old, batch, DOWN, 20)
    assert rig.ledger.settled() is None
    new = rig.lane("new")
    rig.end(new, rig.send(new, 100), Outcome(), 110)
    assert rig.ledger.settled() == 20


def test_rows_on_disk_go_to_the_routes_that_want_them(rig: Rig) -> None:
    """After a start with other routes: rows of a narrowed or renamed one move, and are taken back only then."""
    rig.put("all", b"a1", b"b1")
    rig.put("was", b"c1", b"d1")
    rig.load(route("all", "a*"), route("rest", "b*", "c*"))
    lane = rig.lane("all")
    lane.take_back(0)
    assert not lane.keys.waiting
    rig.sort()
    assert {name: rig.rows(name) for name in ("all", "rest", "was")} == {
        "all": {b"a1"},
        "rest": {b"b1", b"c1"},
        "was": {b"d1"},
    }
    lane.take_back(0)
    assert list(lane.keys.waiting) == [b"a1"]


def test_adopted_rows_survive_what_is_in_flight(rig: Rig) -> None:
    """A delivery that was read before it learned of a row does not take that row with it."""
    rig.put("was", b"a")
    rig.load(route("new"))
    new = rig.lane("new")
    rig.mark(b"a", slot=0)
    batch = rig.send(new)
    rig.sort()
    rig.end(new, batch, Outcome(), 10)
    assert rig.rows("new") == {b"a"}
    assert keys_of(new.take(20)) == [b"a"]


def test_rows_may_be_in_flight_by_a_process_that_died(rig: Rig) -> None:
    """Who has rows, his own or adopted ones, starts nothing before their fence; who has none does not wait."""
    rig.put("was", b"a")
    rig.load(route("heir", "a*"), route("other", "z*"), shelf_pause_ms=1_000)
    rig.mark(b"a", slot=0)
    rig.mark(b"z", slot=1)
    assert rig.lane("other").take(0) is None
    rig.sort()
    assert keys_of(rig.lane("other").take(20)) == [b"z"]
    assert rig.lane("heir").take(999) is None
    assert keys_of(rig.lane("heir").take(1_100)) == [b"a"]


def test_a_disk_that_refuses_keeps_the_rows_where_they_are(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row is removed before another route has it; it is retried later."""
    rig.put("was", b"a")
    rig.load(route("new"))
    with monkeypatch.context() as patch:
        patch.setattr(rig.kit.backlog, "put", lambda *_, **__: "the disk is full")
        assert not rig.lanes.sort_shelves(0)
        assert rig.rows("was") == {b"a"}
    rig.sort(500)
    assert rig.rows("new") == set()
    rig.sort(2_000)
    assert rig.rows("new") == {b"a"}
    assert rig.rows("was") == set()
