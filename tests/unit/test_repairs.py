"""Repairs that are wanted while their subscriber is dead, or that it dies with."""

from __future__ import annotations

import pytest

from engine.config import SupervisionSettings
from engine.lifecycle import Message, RepairWanted
from engine.model import THE_BEGINNING_MS
from engine.ring.heard import HeardTable
from engine.supervision.children import Child, Children
from engine.supervision.progress.repairs import Repairs


class Desk:
    """Three subscribers, and what they are told; ``is_dead`` while nobody can be told anything."""

    def __init__(self) -> None:
        self.children = Children(3, 1, SupervisionSettings(), lambda: 0.5, 0).subscribers
        self.heard = HeardTable(3, 4)
        self.told: list[tuple[int, RepairWanted]] = []
        self.is_dead = False
        self.it = Repairs(self._send, self.heard)

    def _send(self, number: int, message: Message) -> None:
        assert isinstance(message, RepairWanted)
        if not self.is_dead:
            self.told.append((number, message))

    def want(self, message: RepairWanted) -> None:
        self.it.want(message, self.children)

    def replace(self, child: Child, *nodes: int) -> None:
        self.it.succeed(child, nodes)
        self.it.forked(child)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_who_is_told(desk: Desk) -> None:
    """A repair goes to the shard that is meant, or to all."""
    desk.want(RepairWanted({0: 7}, 1))
    desk.want(RepairWanted())
    second = desk.children[1].number
    assert desk.told[0] == (second, RepairWanted({0: 7}, 1, number=1))
    assert [number for number, _ in desk.told[1:]] == [child.number for child in desk.children]
    assert len({message.number for _, message in desk.told}) == 4


@pytest.mark.parametrize("is_dead", [True, False])
def test_a_subscriber_that_dies_leaves_it(desk: Desk, is_dead: bool) -> None:
    """A successor is told what its predecessor has not taken, and begins where that begins; nobody else does."""
    first, other, _ = desk.children
    for child in (first, other):
        for node in (0, 2):
            desk.heard.row(child.index).set(node, 1_000 + node, 99, 5, 3)
    desk.is_dead = is_dead
    desk.want(RepairWanted({0: 400}, first.index))
    desk.is_dead = False
    desk.told.clear()
    desk.replace(first, 0, 2)
    desk.replace(other, 0, 2)
    assert desk.told == [(first.number, RepairWanted({0: 400}, first.index, number=1))]
    row = desk.heard.row(first.index)
    assert [(row.get(node).since_ms, row.get(node).server_mark) for node in (0, 2)] == [(400, 0), (THE_BEGINNING_MS, 0)]
    assert desk.heard.row(other.index).get(0).since_ms == 1_000


def test_what_is_taken_is_over(desk: Desk) -> None:
    """What a subscriber has taken is known from its row: its successors are told nothing."""
    first = desk.children[0]
    desk.want(RepairWanted({0: 400}, 0))
    desk.want(RepairWanted({0: 500}, 0))
    desk.it.taken(first.number, 1)
    desk.it.taken(first.number, 77)
    desk.told.clear()
    desk.replace(first, 0)
    assert [message.number for _, message in desk.told] == [2]
    desk.it.taken(first.number, 2)
    desk.told.clear()
    desk.heard.row(0).set(0, 9_000, 99, 5, 3)
    desk.replace(first, 0)
    assert desk.told == []
    assert desk.heard.row(0).get(0).since_ms == 9_000
