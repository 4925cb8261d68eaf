"""New nodes while the engine runs: numbers, slots without an owner, and who is told."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from engine.errors import EngineError
from engine.routing.assignment import Feeds, assign
from engine.routing.nodes import ALL_SLOTS, NODES_MAX, Node, Topology
from engine.supervision.children import Child, Role
from engine.supervision.topology.handover import Handover
from engine.supervision.topology.registry import Registry, is_same, with_owners
from engine.supervision.topology.rollout import InForce, Replace, Stage, Teach

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


# Numbers


def test_numbers_are_never_given_again() -> None:
    """A node that comes back has its number, and a new one none that another had."""
    registry = Registry(TWO)
    topology, feeds = registry.number(grown(NEW), assign(grown(NEW), 3))
    assert {node.id: node.number for node in topology.nodes} == {"a": 0, "b": 1, "c": 2}
    assert {feed.node for (feed,) in feeds} == set(topology.nodes)
    topology, _ = registry.number(Topology((replace(NEW, id="d"), NEW), is_cluster=True), ())
    assert {node.id: node.number for node in topology.nodes} == {"d": 3, "c": 2}


def test_more_nodes_than_can_be_told_apart() -> None:
    """Too many nodes are an error that says what to do, and none of them has a number."""
    registry = Registry(TWO)
    many = Topology(tuple(Node(id=f"n{number}", slots=()) for number in range(NODES_MAX - 1)), is_cluster=True)
    with pytest.raises(EngineError, match="nodes have come and gone") as caught:
        registry.number(many, ())
    assert "restart" in caught.value.hint
    few = Topology(many.nodes[: NODES_MAX - 2], is_cluster=True)
    assert registry.number(few, ())[0].nodes[-1].number == NODES_MAX - 1


# Slots without an owner


def test_slots_without_an_owner_stay_where_they_were() -> None:
    """In the midst of a failover slots are nobody's for a while: until then they are those of who had them last."""
    b_alone = Topology((replace(TWO.nodes[1], number=0),), is_cluster=True)
    kept = with_owners(b_alone, TWO)
    assert {node.id: node.slots for node in kept.nodes} == {"a": HALVES[0], "b": HALVES[1]}
    a_empty = Topology((replace(TWO.nodes[0], slots=((5, 10),)), TWO.nodes[1]), is_cluster=True)
    assert with_owners(a_empty, TWO).nodes[0].slots == HALVES[0]
    taken_over = Topology((replace(NEW, slots=((0, 8_000),)), TWO.nodes[1]), is_cluster=True)
    assert {node.id: node.slots for node in with_owners(taken_over, TWO).nodes} == {
        "a": ((8_001, 8_191),),
        "b": HALVES[1],
        "c": ((0, 8_000),),
    }
    whole = Topology((replace(NEW, slots=ALL_SLOTS),), is_cluster=True)
    assert with_owners(whole, TWO) is whole


def test_numbers_and_order_are_no_change() -> None:
    """What the server does not say makes no topology another one; epochs, slots and addresses do."""
    assert is_same(Topology(grown().nodes[::-1], is_cluster=True), TWO)
    assert not is_same(grown(NEW), TWO)
    assert not is_same(grown(epoch=2), TWO)


# Who is told


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


def newer(handover: Handover) -> tuple[Topology, Feeds]:
    topology, feeds = Registry(handover.topology).number(grown(NEW), assign(grown(NEW), 2))
    return replace(topology, version=handover.topology.version + 1), feeds


def test_invokers_are_told_before_subscribers(handover: Handover, family: tuple[Child, ...]) -> None:
    """Subscribers hear of nodes once every invoker knows them; then all are in force."""
    topology, feeds = newer(handover)
    handover.take(topology, feeds, 0)
    assert handover.step(family, 0) == [Teach(2), Teach(3)]
    assert handover.step(family, 1) == []
    handover.confirmed(2, 2)
    assert handover.step(family, 2) == []
    handover.confirmed(3, 2)
    assert handover.step(family, 3) == [Teach(0), Teach(1)]
    handover.confirmed(0, 2)
    handover.confirmed(1, 2)
    assert handover.step(family, 4) == [InForce()]
    assert handover.stage is Stage.IDLE


def test_a_child_is_born_with_what_its_kind_has(handover: Handover, family: tuple[Child, ...]) -> None:
    """An invoker is born with the newest nodes, a subscriber with the old ones until all invokers know them."""
    topology, feeds = newer(handover)
    handover.take(topology, feeds, 0)
    assert handover.born_with(family[2]) == (topology, feeds)
    assert handover.born_with(family[0]) == (TWO, FEEDS)
    for number in (2, 3):
        handover.confirmed(number, 2)
    handover.step(family, 1)
    assert handover.born_with(family[0]) == (topology, feeds)
    for child in family[:2]:
        handover.forked(child)
    assert handover.step(family, 2) == [InForce()]


def test_who_does_not_confirm_is_replaced(handover: Handover, family: tuple[Child, ...]) -> None:
    """A child that does not take the nodes in time is replaced, and its successor is born with them."""
    handover.take(*newer(handover), 0)
    handover.step(family, 0)
    handover.confirmed(2, 2)
    assert handover.step(family, CONFIRM_MS) == [Replace(3)]
    assert handover.step(family, CONFIRM_MS + 1) == []
    handover.forked(family[3])
    assert handover.step(family, CONFIRM_MS + 2) == [Teach(0), Teach(1)]
