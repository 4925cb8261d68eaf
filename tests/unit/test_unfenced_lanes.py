"""Lanes whose function keeps older values out by itself: no fence, and no harm when it no longer does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine.config import RouteSettings, Settings
from engine.delivery.lanes.lane import Batch
from engine.delivery.lanes.lanes import Lanes
from engine.delivery.lanes.route_lane import RouteLane
from engine.delivery.lanes.settle import Frame
from engine.delivery.reading.questions import Fetched
from engine.model import Failure, Outcome, Run
from engine.ring.counters import Counter
from engine.routing.assignment import assign
from engine.routing.nodes import Topology
from engine.routing.routes import RouteTable
from engine.supervision.errands.planner import Plan
from engine.supervision.memory import SharedMemory
from engine.supervision.progress.checkpoint import CheckpointFile
from engine.supervision.progress.keeping import Keeper
from tests.lane_bench import DELIVERY, ROUTE, UNIX_MS, lane_kit

LOST = Outcome(Failure.TIMEOUT, reason="no answer", is_lost=True)
FENCE_MS = DELIVERY.deadline_ms + DELIVERY.deadline_margin_ms
OTHER = msgspec.structs.replace(ROUTE, name="other", function="g")


class Rig:
    """The lanes of an invoker, and the table that made them."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.table: RouteTable | None = None

    def load(self, *promising: str, routes: tuple[RouteSettings, ...] = (ROUTE,), at_ms: int = 0) -> RouteLane:
        """Take in a table in which these functions refuse older versions; return the lane of its first route."""
        self.table = RouteTable.build(routes, self.table).with_unfenced(promising)
        self.lanes.set_routes(self.table, at_ms, 0, 0)
        return next(lane for lane in self.lanes.in_force.values() if lane.route.name == routes[0].name)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with lane_kit(tmp_path / "backlog", monkeypatch) as kit:
        yield Rig(Lanes(kit))


def send(lane: RouteLane, at_ms: int = 0) -> Batch:
    lane.keys.add([Run("hset", 1, UNIX_MS, [b"k"])], Frame(10), at_ms)
    return sent(lane, at_ms)


def sent(lane: RouteLane, at_ms: int) -> Batch:
    batch = lane.take(at_ms)
    assert batch is not None
    lane.send(batch, [Fetched(key, "hash", "{}", "", 7) for key, _ in batch.entries], at_ms, UNIX_MS)
    return batch


@pytest.mark.parametrize(("promising", "waits"), [((), True), (("f",), False), (("g",), True)])
def test_a_lost_invocation_leaves_a_fence_only_where_it_may_harm(
    rig: Rig, promising: tuple[str, ...], waits: bool
) -> None:
    """Keys of a function that refuses older versions go out again at once; its batches say what they count on."""
    lane = rig.load(*promising)
    batch = send(lane)
    assert json.loads(batch.payload).get("unfenced", False) is not waits
    assert (lane._row.get(Counter.FENCE_MS) > 0) is waits
    lane.complete(batch, LOST, 100, UNIX_MS)
    again = lane.take(FENCE_MS - 1)
    assert (again is None) is waits
    assert lane.fences.until_ms() == (FENCE_MS if waits else 0)


def test_a_function_that_no_longer_refuses_is_fenced_from_the_next_table_on(rig: Rig) -> None:
    """What left no fence may not meet writes that ask for no version: until its deadline has passed nothing is sent."""
    lane = rig.load("f")
    lane.complete(send(lane), LOST, 100, UNIX_MS)
    assert rig.load(at_ms=200) is lane
    assert lane.take(200 + FENCE_MS - 1) is None
    assert "unfenced" not in json.loads(sent(lane, 300 + FENCE_MS).payload)


def test_a_lane_after_an_unfenced_one_waits_as_well(rig: Rig) -> None:
    """A route with other keys has another lane; one that is fenced waits for what left no fence."""
    lane = rig.load("f")
    lane.complete(send(lane), LOST, 100, UNIX_MS)
    heir = rig.load(routes=(msgspec.structs.replace(OTHER, keys=("k*",)),), at_ms=200)
    assert heir is not lane
    assert heir.take(200 + FENCE_MS - 1) is None


def test_a_function_that_begins_to_refuse_needs_no_wait(rig: Rig) -> None:
    """What was lost before has its fence yet; everything after it goes out at once."""
    lane = rig.load()
    lane.complete(send(lane), LOST, 100, UNIX_MS)
    rig.load("f", at_ms=200)
    assert lane.take(FENCE_MS - 1) is None
    assert "unfenced" in json.loads(sent(lane, 3_000).payload)


# The checkpoint


def keeper(folder: Path, *promising: str, routes: tuple[RouteSettings, ...] = (ROUTE,)) -> Keeper:
    settings = Settings(delivery=msgspec.structs.replace(DELIVERY, invokers=1))
    table = RouteTable.build(routes).with_unfenced(promising)
    plan = Plan(feeds=assign(Topology(), 1), table=table.encode(), scope="redis 1", server_ms=50_000)
    return Keeper(settings, plan, SharedMemory(1, 1, 1 << 16), CheckpointFile(str(folder / "checkpoint")))


@pytest.mark.parametrize(
    ("before", "now", "routes", "waits"),
    [
        (("f",), ("f",), (ROUTE,), False),
        ((), ("f",), (ROUTE,), True),
        (("f",), (), (ROUTE,), True),
        (("f",), ("f",), (ROUTE, OTHER), True),
        (("f", "g"), ("f", "g"), (ROUTE, OTHER), False),
    ],
)
def test_a_start_after_a_crash_waits_only_for_what_may_harm(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: tuple[str, ...],
    now: tuple[str, ...],
    routes: tuple[RouteSettings, ...],
    waits: bool,
) -> None:
    """Where all functions refuse older versions, then and now, nothing is waited for; else the whole fence is."""
    monkeypatch.setattr("engine.supervision.progress.keeping.monotonic_ms", lambda: 1_000)
    keeper(tmp_path, *before, routes=routes).keep(is_clean=False)
    fence_ms = keeper(tmp_path, *now, routes=routes).fence_ms
    assert fence_ms == (1_000 + FENCE_MS if waits else 1_001)


def test_a_fence_is_on_disk_before_anything_is_sent_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that fences again is in the checkpoint at once: a crash may come before the next one is due."""
    monkeypatch.setattr("engine.supervision.progress.keeping.monotonic_ms", lambda: 1_000)
    running = keeper(tmp_path, "f")
    running.keep(is_clean=False)
    running.take_routes(RouteTable.build((ROUTE,)))
    assert keeper(tmp_path, "f").fence_ms == 1_000 + FENCE_MS
