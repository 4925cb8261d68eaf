"""New nodes while the engine runs: when they are asked for, what children are told, and new routes beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from msgspec.structs import replace

from engine.config import CaptureSettings, RedisSettings, RouteSettings, Settings
from engine.errors import Problem
from engine.lifecycle import Message, RoutesInForce, SetFeeds, SetTopology, TopologyInForce
from engine.model import Missed
from engine.routing.assignment import Feeds, assign
from engine.routing.nodes import NODES_MAX, Node, Topology
from engine.routing.routes import RouteTable
from engine.supervision.children import Child, Role
from engine.supervision.errands.errand import Errand
from engine.supervision.errands.planner import Answer, Nodes, Plan, Refusal
from engine.supervision.progress.keeping import Keeper
from engine.supervision.topology.changes import Changes
from engine.supervision.topology.handover import Handover
from engine.supervision.topology.retopology import DEBOUNCE_MS, RETRY_MS_MAX, RETRY_MS_MIN, Retopology
from engine.supervision.topology.watched import WatchedFile

CONFIRM_MS = 5_000
INTERVAL_MS = 10_000
HALVES = (((0, 8_191),), ((8_192, 16_383),))
TWO = Topology(
    tuple(Node(number, id, f"{id}:1", HALVES[number], 1) for number, id in enumerate("ab")), is_cluster=True, version=1
)
FEEDS = assign(TWO, 2)


def grown(*more: Node, epoch: int = 1) -> Topology:
    """Return the two nodes with more of them, as they are asked for: without numbers."""
    nodes = [replace(node, number=0, epoch=epoch) for node in TWO.nodes]
    return Topology((*nodes, *more), is_cluster=True)


NEW = Node(id="c", address="c:1", slots=())


@pytest.fixture
def family() -> tuple[Child, ...]:
    roles = [Role.SUBSCRIBER, Role.SUBSCRIBER, Role.INVOKER, Role.INVOKER]
    return tuple(Child(number, role, number % 2, 2, pid=100 + number) for number, role in enumerate(roles))


@pytest.fixture
def handover(family: tuple[Child, ...]) -> Handover:
    made = Handover(TWO, FEEDS, CONFIRM_MS)
    for child in family:
        made.forked(child)
    return made


# When they are asked for


class FakeErrand:
    """Answers what the test says, when it says so."""

    def __init__(self) -> None:
        self.process: object | None = None
        self.answer: Answer | None = None
        self.works: list[Callable[[], Answer]] = []

    def start(self, work: Callable[[], Answer], give_up_ms: int) -> None:
        self.process = object()
        self.works.append(work)

    def poll(self, now_ms: int) -> Answer | None:
        answer, self.answer = self.answer, None
        if answer is not None:
            self.process = None
        return answer


class FakeKeeper:
    """Remembers what it is handed."""

    def __init__(self) -> None:
        self.taken: list[Topology] = []
        self.streams: dict[str, object] = {}

    def take_topology(self, topology: Topology, feeds: Feeds) -> None:
        self.taken.append(topology)

    def take_routes(self, table: RouteTable) -> None:
        pass

    def routes_in_force(self) -> None:
        pass

    def missed_by_new_routes(self) -> tuple[Missed, ...]:
        return ()

    def missed_since(self, child: Child, version: int) -> dict[int, tuple[Missed, ...]]:
        return {2: (Missed(version),)}


class Desk:
    """A `Retopology` with all around it."""

    def __init__(self, handover: Handover, planned: Plan, settings: Settings) -> None:
        self.errand, self.keeper, self.handover = FakeErrand(), FakeKeeper(), handover
        self.asked_with: list[Nodes] = []
        self.it = Retopology(
            settings, planned, self._ask, cast(Errand, self.errand), handover, cast(Keeper, self.keeper)
        )

    def _ask(self, settings: Settings, database: int, before: Nodes) -> Answer:
        self.asked_with.append(before)
        return before

    @property
    def asked(self) -> int:
        return len(self.errand.works)

    def answer(self, answer: Answer, now_ms: int) -> None:
        self.errand.answer = answer
        self.it.turn(now_ms)


def desk_of(handover: Handover, **changed: Any) -> Desk:
    planned = Plan(feeds=FEEDS, table=b"", topology=TWO, epoch=5)
    settings = Settings(capture=CaptureSettings(topology_interval_ms=INTERVAL_MS), redis=RedisSettings())
    return Desk(handover, replace(planned, **changed), settings)


@pytest.fixture
def desk(handover: Handover) -> Desk:
    return desk_of(handover)


SAME = Nodes(TWO, FEEDS, 6)


def test_changes_that_show_together_are_one(desk: Desk) -> None:
    """Several reports are one question; one that comes while it is asked is the next."""
    desk.it.want("the epoch is 6", 0)
    desk.it.turn(0)
    assert not desk.asked
    desk.it.want("MOVED", 50)
    desk.it.turn(DEBOUNCE_MS)
    desk.it.turn(DEBOUNCE_MS + 1)
    assert desk.asked == 1
    desk.it.want("MOVED", DEBOUNCE_MS + 2)
    desk.answer(SAME, DEBOUNCE_MS + 3)
    desk.it.turn(2 * DEBOUNCE_MS + 2)
    assert desk.asked == 2
    desk.errand.works[0]()
    desk.errand.works[1]()
    assert [before.epoch for before in desk.asked_with] == [5, 6]


def test_nodes_are_asked_for_on_a_timer(desk: Desk) -> None:
    """What shows nowhere is found out all the same."""
    desk.it.turn(0)
    desk.it.turn(INTERVAL_MS - 1)
    assert not desk.asked
    desk.it.turn(INTERVAL_MS)
    assert desk.asked == 1
    desk.answer(SAME, INTERVAL_MS + 5)
    desk.it.turn(INTERVAL_MS + 10)
    desk.it.turn(2 * INTERVAL_MS + 9)
    assert desk.asked == 1
    desk.it.turn(2 * INTERVAL_MS + 10)
    assert desk.asked == 2
    assert desk.handover.topology is TWO
    assert not desk.keeper.taken


def test_one_server_is_not_asked_on_a_timer() -> None:
    """A server without cluster mode that is where it is has nothing to tell, until somebody sees a change."""
    one = Topology()
    feeds = assign(one, 1)
    desk = desk_of(Handover(one, feeds, CONFIRM_MS), topology=one, feeds=feeds)
    desk.it.turn(0)
    desk.it.turn(10 * INTERVAL_MS)
    assert not desk.asked
    desk.it.want("it is a replica now", 10 * INTERVAL_MS)
    desk.it.turn(10 * INTERVAL_MS + DEBOUNCE_MS)
    assert desk.asked == 1


def test_new_nodes_are_handed_over(desk: Desk, family: tuple[Child, ...]) -> None:
    """The keeper learns of new nodes first; then each child is told what it needs, and what was missed."""
    desk.it.want("", 0)
    desk.it.turn(DEBOUNCE_MS)
    desk.answer(Nodes(grown(NEW), assign(grown(NEW), 2, before=FEEDS), 6), 200)
    (taken,) = desk.keeper.taken
    assert taken is desk.handover.topology
    assert (taken.version, [node.number for node in taken.nodes]) == (2, [0, 1, 2])
    assert desk.handover.is_under_way
    told = desk.it.lesson(family[2])
    assert isinstance(told, SetTopology)
    assert told.topology is taken
    assert sorted(number for numbers in told.nodes for number in numbers) == [0, 1, 2]
    told_too = desk.it.lesson(family[0])
    assert isinstance(told_too, SetFeeds)
    assert (told_too.version, told_too.feeds) == (2, desk.handover.feeds[0])
    assert told_too.missed == {2: (Missed(1),)}


def test_a_server_that_can_not_be_asked_is_asked_again(desk: Desk) -> None:
    """A failure changes nothing, and is tried again for ever, ever more slowly, up to a bound."""
    now_ms = 0
    desk.it.want("", now_ms)
    now_ms += DEBOUNCE_MS
    desk.it.turn(now_ms)
    waits = []
    for asked in range(1, 12):
        assert desk.asked == asked
        desk.answer(Refusal((Problem("redis", "nobody answers"),)), now_ms)
        failed_ms = now_ms
        # What the children see meanwhile makes it no quicker.
        desk.it.want("again", now_ms)
        while desk.asked == asked:
            now_ms += 100
            desk.it.turn(now_ms)
        waits.append(now_ms - failed_ms)
    assert waits[0] == RETRY_MS_MIN
    assert waits == sorted(waits)
    assert waits[-1] == RETRY_MS_MAX
    assert desk.handover.topology is TWO
    desk.answer(Nodes(grown(NEW), FEEDS, 6), now_ms)
    assert len(desk.handover.topology.nodes) == 3


def test_too_many_nodes_leave_what_is_in_force(desk: Desk) -> None:
    """Nodes that have no place any more are told, and nothing else changes."""
    many = tuple(Node(id=f"n{number}", slots=()) for number in range(NODES_MAX))
    desk.it.want("", 0)
    desk.it.turn(DEBOUNCE_MS)
    desk.answer(Nodes(grown(*many), FEEDS, 6), 200)
    assert desk.handover.topology is TWO
    assert not desk.keeper.taken


def test_nodes_that_were_dead_at_the_start_are_asked_for_at_once(handover: Handover) -> None:
    """A node without feeds, because it was dead when the engine started, gets some without anybody's asking."""
    desk = desk_of(handover, is_whole=False, feeds=(FEEDS[0], ()))
    desk.it.turn(0)
    assert desk.asked == 1
    desk.errand.works[0]()
    assert not desk.asked_with[0].is_whole


# Routes and nodes at once


class Both:
    """`Changes` of routes and nodes, both of which are read when the test says so."""

    def __init__(self, family: tuple[Child, ...]) -> None:
        table = RouteTable.build([RouteSettings(name="carts", function="f")])
        self.newer = RouteTable.build([RouteSettings(name="people", function="f")], table)
        planned = Plan(feeds=FEEDS, table=table.encode(), topology=TWO, epoch=5)
        self.routes, self.nodes = FakeErrand(), FakeErrand()
        errands = cast(tuple[Errand, Errand], (self.routes, self.nodes))
        self.it = Changes(
            Settings(),
            planned,
            lambda settings, table: planned,
            Settings,
            lambda settings, database, before: before,
            errands,
            cast(Keeper, FakeKeeper()),
            WatchedFile(None),
        )
        self.family, self.sent = family, list[tuple[int, str]]()
        for child in family:
            self.it.forked(child)

    def turn(self) -> None:
        self.it.turn(self.family, lambda number, message: self.sent.append((number, type(message).__name__)))

    def have_routes(self) -> None:
        self.it.reload.planning()
        self.routes.answer = Plan(feeds=FEEDS, table=self.newer.encode(), topology=TWO)
        self.turn()

    def have_nodes(self) -> None:
        self.nodes.answer = Nodes(grown(NEW), assign(grown(NEW), 2, before=FEEDS), 6)
        self.turn()

    def confirm(self, message: Message, *roles: Role) -> None:
        for child in self.family:
            if child.role in roles:
                self.it.hear(child.number, message)
        self.turn()


def test_nodes_wait_for_routes(family: tuple[Child, ...]) -> None:
    """While children are told of new routes no nodes are handed out; they follow once the routes are in force."""
    both = Both(family)
    both.have_routes()
    assert both.sent == [(2, "SetRoutes"), (3, "SetRoutes")]
    both.have_nodes()
    assert not both.it.handover.is_under_way
    both.confirm(RoutesInForce(2), Role.INVOKER)
    both.confirm(RoutesInForce(2), Role.SUBSCRIBER)
    both.turn()
    assert both.sent[2:] == [(0, "SetRoutes"), (1, "SetRoutes"), (2, "SetTopology"), (3, "SetTopology")]
    both.confirm(TopologyInForce(2), Role.INVOKER)
    both.confirm(TopologyInForce(2), Role.SUBSCRIBER)
    assert both.sent[6:] == [(0, "SetFeeds"), (1, "SetFeeds")]
    assert both.it.is_idle


def test_routes_wait_for_nodes(family: tuple[Child, ...]) -> None:
    """While nodes are handed out no child is told of new routes; they follow once the nodes are in force."""
    both = Both(family)
    both.have_nodes()
    assert both.sent == [(2, "SetTopology"), (3, "SetTopology")]
    both.have_routes()
    assert not both.it.reload.is_under_way
    both.confirm(TopologyInForce(2), Role.INVOKER)
    both.confirm(TopologyInForce(2), Role.SUBSCRIBER)
    both.turn()
    assert both.sent[2:] == [(0, "SetFeeds"), (1, "SetFeeds"), (2, "SetRoutes"), (3, "SetRoutes")]
