"""A scan of all keys of all nodes, while slots may move and nodes may take another's place.

A slot is done once its owner was scanned from beginning to end and owned it throughout. Slots that moved meanwhile
are scanned again. While a slot's keys move one by one, some of them are on the node that imports it: that node is
scanned for the slot too, after the owner.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.clock import monotonic_ms
from engine.errors import RedisUnreachable
from engine.redis.cluster.nodes import TROUBLE_MS_MAX, Nodes, no_owner
from engine.redis.connection import pack
from engine.routing.nodes import SLOTS, Node, Topology, slot_of, slots_gained, slots_in
from engine.text import counted

PASSES_MAX = 20
"""Slots that moved in each of this many passes are given up."""
AGAIN_S = 0.5

_NODES = pack("CLUSTER", "NODES")
_OPEN = re.compile(r"\[(\d+)-([<>])-([0-9a-f]+)\]")


class Move(NamedTuple):
    """A slot whose keys move one by one from a node to another."""

    slot: int
    source: str
    target: str


def moves_of(node_id: str, cluster_nodes: bytes) -> set[Move]:
    """Return which slots are on their way from this node, or to it, as its ``CLUSTER NODES`` says."""
    found = _OPEN.findall(cluster_nodes.decode())
    return {
        Move(int(slot), node_id, other) if way == ">" else Move(int(slot), other, node_id) for slot, way, other in found
    }


def sources_first(nodes: Iterable[Node], moves: Iterable[Move]) -> list[Node]:
    """Return the nodes ordered so that a slot's importer comes after its owner, unless they import in a circle."""
    sources: dict[str, set[str]] = {}
    for move in moves:
        sources.setdefault(move.target, set()).add(move.source)
    left, ordered = list(nodes), []
    while left:
        waiting = {node.id for node in left}
        free = [node for node in left if not sources.get(node.id, set()) & waiting] or left[:1]
        ordered += free
        left = [node for node in left if node not in free]
    return ordered


@dataclass(slots=True)
class Ledger:
    """Which slots are still to be scanned, by what was seen before and after each node's scan."""

    todo: set[int] = field(default_factory=lambda: set(range(SLOTS)))
    _half_done: set[Move] = field(default_factory=set)
    """Moves whose source was scanned while they went on."""

    def begin(self) -> None:
        """Begin a pass over all nodes."""
        self._half_done.clear()

    def wanted(self, node: Node, moves: Iterable[Move]) -> set[int]:
        """Return for which slots a node is to be scanned."""
        imported = {move.slot for move in moves if move.target == node.id}
        return self.todo & imported.union(slots_in(node.slots))

    def left_importers(self) -> list[str]:
        """Return nodes that are to be scanned once more: they were scanned before a node whose keys they import."""
        return sorted({move.target for move in self._half_done if move.slot in self.todo})

    def scanned(self, before: Node, after: Node | None, moves_before: set[Move], moves_after: set[Move]) -> None:
        """Take in a whole scan of a node; ``after`` is its present state, None if it no longer has keys."""
        if after is None or (after.epoch != before.epoch and not slots_gained(before.slots, after.slots)):
            # A higher epoch without new slots: some were taken away and given back.
            return
        owned = set(slots_in(before.slots)).intersection(slots_in(after.slots))
        moving = {move.slot: move for move in moves_before | moves_after}
        for slot in self.todo & owned:
            move = moving.get(slot)
            if move is None:
                self.todo.discard(slot)
            elif move in moves_before and move.source == before.id:
                self._half_done.add(move)
        for move in moves_before & self._half_done:
            gained = set(slots_in(after.slots))
            if move.target == before.id and (move in moves_after or move.slot in gained):
                self.todo.discard(move.slot)


class ClusterScan:
    """One scan; ``scan_node`` yields the keys of one node in small lists."""

    def __init__(
        self,
        nodes: Nodes,
        scan_node: Callable[[Node], Iterator[list[bytes]]],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._nodes = nodes
        self._scan_node = scan_node
        self._sleep = sleep
        self._ledger = Ledger()

    def all_keys(self) -> Iterator[list[bytes]]:
        """Yield every key that exists throughout, at least once; raise `RedisUnreachable` if that is impossible."""
        passes, well_ms = 0, monotonic_ms()
        while self._ledger.todo:
            before = len(self._ledger.todo)
            try:
                yield from self._pass()
                passes += 1
            except RedisUnreachable:
                if len(self._ledger.todo) < before:
                    well_ms = monotonic_ms()
                elif monotonic_ms() - well_ms > TROUBLE_MS_MAX:
                    raise
            if passes == PASSES_MAX:
                raise RedisUnreachable(
                    f"{counted(len(self._ledger.todo), 'slot')} moved whenever they were scanned",
                    hint="run this again later",
                )
            if self._ledger.todo:
                self._sleep(AGAIN_S)

    def _pass(self) -> Iterator[list[bytes]]:
        topology = self._nodes.refresh()
        for slot, owner in enumerate(topology.owners()):
            if owner is None:
                raise no_owner(slot)
        self._ledger.begin()
        for node in sources_first(topology.nodes, self._moves(topology.nodes)):
            yield from self._scan(node.id)
        for node_id in self._ledger.left_importers():
            yield from self._scan(node_id)

    def _scan(self, node_id: str) -> Iterator[list[bytes]]:
        before, moves = self._look(node_id)
        slots = self._ledger.wanted(before, moves) if before is not None else set()
        if before is None or not slots:
            return
        for keys in self._scan_node(before):
            yield [key for key in keys if slot_of(key) in slots]
        after, moves_after = self._look(node_id)
        self._ledger.scanned(before, after, moves, moves_after)

    def _look(self, node_id: str) -> tuple[Node | None, set[Move]]:
        """Return a node's present state, and the moves that it takes part in."""
        node = _named(self._nodes.refresh(), node_id)
        return node, self._moves([node] if node is not None else [])

    def _moves(self, nodes: Iterable[Node]) -> set[Move]:
        found: set[Move] = set()
        for node in nodes:
            (reply,) = self._nodes.pipeline(node, [_NODES])
            # If the user may not ask, moves go unnoticed.
            found |= moves_of(node.id, reply) if isinstance(reply, bytes) else set()
        return found


def _named(topology: Topology, node_id: str) -> Node | None:
    return next((node for node in topology.nodes if node.id == node_id), None)
