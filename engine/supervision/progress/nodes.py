"""How far delivery has come with each node, and what is owed for slots that a node gained.  (pure)

Each node has a clock of its own, and a watermark by it. A watermark is true of the slots, and of the shard's feeds,
that it was sent for: it carries the version of the topology (`engine.model.Watermark`). If a shard's part of the node
changed in a newer version, the watermark says nothing about the present part. So a node's watermark stands from the
moment at which slots or feeds move until all shards that hear the node have found what they were handed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from engine.model import EVERY_ROUTE, THE_BEGINNING_MS, Missed, RouteMask, Watermark
from engine.routing.assignment import Feeds
from engine.routing.feeds import Feed
from engine.routing.nodes import Node, Topology, as_ranges, slots_in
from engine.supervision.progress.checkpoint import NodeKept

EMPTY_KEY = 256
"""Stands for the empty key among last bytes."""

Settled = Callable[[int, int], Sequence[Watermark]]
"""Shard and node number → the settled watermark of each of the shard's rings."""
Heard = Callable[[int, int], tuple[int, Missed]]
"""Shard and node number → the version with which the shard heard the node, and what a gap since then would miss."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one shard hears of a node: ``feeds``, each by the last bytes of its keys.

    It has listened to these since version ``begun``. Watermarks of older versions than ``changed`` say nothing about
    it.
    """

    feeds: frozenset[tuple[bytes, bool]]
    begun: int
    changed: int


@dataclass(slots=True)
class NodeProgress:
    """One node. ``settled`` is its watermark, as what a gap that begins there misses; it is true of ``slots``, and of
    keys that end in ``endings``.

    ``owed`` are slots whose keys this engine has not looked for yet. ``host_ms`` is up to when everything is settled by
    this host's monotonic clock, None if that is unknown.
    """

    node: Node
    settled: Missed
    slots: frozenset[int]
    endings: frozenset[int]
    owed: frozenset[int] = frozenset()
    parts: dict[int, Part] = field(default_factory=dict)
    host_ms: int | None = None

    def gained(self, routes: RouteMask) -> tuple[Missed, ...]:
        """Return the debt for slots that the node gained: all of their keys, whatever their idle times say."""
        if not self.owed:
            return ()
        slots = () if self.node.has_all() else as_ranges(self.owed)
        return (Missed(self.settled.since_ms, 0, routes, slots=slots),)

    def missed(self, routes: RouteMask) -> tuple[Missed, ...]:
        """Return what a feed that begins now has to find: everything since the watermark, and what is owed."""
        before = (msgspec.structs.replace(self.settled, routes=routes),) if self.slots else ()
        return (*before, *self.gained(routes))


def endings_of(feeds: frozenset[tuple[bytes, bool]]) -> frozenset[int]:
    """Return the last bytes of these feeds' keys, with `EMPTY_KEY` if one has it."""
    endings = {byte for last_bytes, _ in feeds for byte in last_bytes}
    return frozenset(endings | {EMPTY_KEY} if any(takes_empty for _, takes_empty in feeds) else endings)


class Nodes:
    """The nodes that this engine hears, and which shard hears which part of them."""

    def __init__(
        self,
        topology: Topology,
        feeds: Feeds,
        kept: Mapping[str, NodeKept],
        clocks_ms: Mapping[str, int],
        first_ms: Mapping[str, int] | None,
    ) -> None:
        """Begin with what was kept, by node id; ``clocks_ms`` is how far a node's clock is ahead of this host's
        monotonic one. On a first start ``first_ms`` says where each node begins (its own clock), else it is None.
        """
        self._version = topology.version
        self._by_id: dict[str, NodeProgress] = {}
        for node, parts in _heard_of(topology, feeds):
            endings = frozenset[int]().union(*(endings_of(part) for part in parts.values()))
            begun = self._begun(node, endings, kept.get(node.id), clocks_ms.get(node.id, 0), first_ms)
            begun.parts = {shard: Part(part, self._version, self._version) for shard, part in parts.items()}
            self._by_id[node.id] = begun

    @staticmethod
    def _begun(
        node: Node, endings: frozenset[int], kept: NodeKept | None, clock_ms: int, first_ms: Mapping[str, int] | None
    ) -> NodeProgress:
        has = frozenset(slots_in(node.slots))
        if first_ms is not None:
            return NodeProgress(node, Missed(first_ms.get(node.id, THE_BEGINNING_MS)), has, endings)
        if kept is None or (kept.endings and not endings <= set(slots_in(kept.endings))):
            return NodeProgress(node, Missed(THE_BEGINNING_MS), frozenset(), endings, has)
        settled = Missed(kept.watermark_ms, kept.server_mark, clock_ms=clock_ms)
        slots = has.intersection(slots_in(kept.slots))
        host_ms = settled.since_ms - clock_ms if clock_ms else None
        return NodeProgress(node, settled, slots, endings, has - slots, host_ms=host_ms)

    @property
    def version(self) -> int:
        """Return the version of the topology."""
        return self._version

    def all(self) -> tuple[NodeProgress, ...]:
        """Return the nodes, by their numbers."""
        return tuple(sorted(self._by_id.values(), key=lambda one: one.node.number))

    def of_shard(self, shard: int) -> tuple[NodeProgress, ...]:
        """Return the nodes that this shard hears."""
        return tuple(one for one in self.all() if shard in one.parts)

    def take_topology(self, topology: Topology, feeds: Feeds) -> None:
        """Take in a newer assignment, which need not be in force yet; one that is known already changes nothing."""
        if topology.version <= self._version:
            return
        self._version = topology.version
        before = self._by_id
        self._by_id = {node.id: self._taken(node, parts, before) for node, parts in _heard_of(topology, feeds)}

    def _taken(
        self, node: Node, parts: Mapping[int, frozenset[tuple[bytes, bool]]], before: Mapping[str, NodeProgress]
    ) -> NodeProgress:
        has = frozenset(slots_in(node.slots))
        endings = frozenset[int]().union(*(endings_of(part) for part in parts.values()))
        known = before.get(node.id)
        if known is None:
            known = NodeProgress(node, Missed(THE_BEGINNING_MS), frozenset(), endings)
        # If this host got other last bytes, nothing kept is true of all that the node's feeds hear now.
        slots, owed = (known.slots & has, known.owed & has) if endings <= known.endings else (frozenset(), frozenset())
        gained = has - slots - owed
        taken = replace(known, node=node, slots=slots, endings=endings, owed=owed | gained, parts={})
        # A node whose epoch has risen may have lost slots, and got them back, between two looks.
        is_same = known.node.number == node.number and known.node.epoch >= node.epoch
        for shard, part in parts.items():
            old = known.parts.get(shard)
            if old is None or old.feeds != part or not is_same:
                taken.parts[shard] = Part(part, self._version, self._version)
            else:
                taken.parts[shard] = replace(old, changed=self._version) if gained else old
        if gained:
            # The previous owner of these slots says since when they are not settled.
            owners = [one.host_ms for one in before.values() if gained & (one.slots | one.owed)]
            times = [time for time in (known.host_ms, *owners) if time is not None]
            taken.host_ms = min(times, default=None)
        return taken

    def missed_since(self, shard: int, version: int, whole: tuple[Missed, ...]) -> dict[int, tuple[Missed, ...]]:
        """Return, by node number, what a running subscriber, which has ``version``, has to find with the newest feeds.

        ``whole`` is what new feeds have to find in addition, for routes that wait for the whole keyspace.
        """
        found = {}
        for one in self.of_shard(shard):
            part = one.parts[shard]
            if part.begun > version:
                found[one.node.number] = (*one.missed(EVERY_ROUTE), *whole)
            elif part.changed > version:
                found[one.node.number] = one.gained(EVERY_ROUTE)
        return _some(found)

    def missed_by_successor(self, shard: int, heard: Heard, whole: tuple[Missed, ...]) -> dict[int, tuple[Missed, ...]]:
        """Return, by node number, what the successor of a subscriber has to find: what is not in the rings."""
        found = {}
        for one in self.of_shard(shard):
            version, known = heard(shard, one.node.number)
            part = one.parts[shard]
            if not known.since_ms or version < part.begun:
                missed = one.missed(EVERY_ROUTE)
            else:
                missed = (known, *(one.gained(EVERY_ROUTE) if version < part.changed else ()))
            found[one.node.number] = (*missed, *whole)
        return _some(found)

    def missed_at_start(
        self, shard: int, routes: RouteMask, whole: tuple[Missed, ...]
    ) -> dict[int, tuple[Missed, ...]]:
        """Return, by node number, what the first subscriber of a shard has to find: what ``routes`` have missed since
        the watermarks, and whatever slots were gained since the start.
        """
        found = {}
        for one in self.of_shard(shard):
            missed = one.missed(routes) if routes else one.gained(EVERY_ROUTE)
            found[one.node.number] = (*missed, *whole)
        return _some(found)

    def heard_by(self, shard: int, heard: Heard) -> dict[int, Missed]:
        """Return, by node number, what a gap that begins at once would miss."""
        found = {}
        for one in self.of_shard(shard):
            version, known = heard(shard, one.node.number)
            is_its_own = known.since_ms and version >= one.parts[shard].begun
            found[one.node.number] = known if is_its_own else one.settled
        return found

    def advance(self, settled: Settled, heard: Heard) -> None:
        """Take in what the rings say: a node's watermark is the lowest in all rings of the shards that hear it."""
        for one in self._by_id.values():
            said = [
                (watermark, watermark.moment_ms and watermark.version >= part.changed)
                for shard, part in one.parts.items()
                for watermark in settled(shard, one.node.number)
            ]
            if all(counts for _, counts in said):
                heard_of = [heard(shard, one.node.number)[1] for shard in one.parts]
                self._advance(one, [watermark for watermark, _ in said], heard_of)

    @staticmethod
    def _advance(one: NodeProgress, watermarks: Sequence[Watermark], heard: Sequence[Missed]) -> None:
        lowest_ms = min(watermark.moment_ms for watermark in watermarks)
        # If the newest has the mark of the oldest, nothing happened in between. What is settled is older than what was
        # heard: its mark holds only if it is still the same.
        marks = {watermark.server_mark for watermark in watermarks} | {missed.server_mark for missed in heard}
        clock_ms = max(missed.clock_ms for missed in heard)
        one.settled = Missed(lowest_ms, marks.pop() if len(marks) == 1 else 0, clock_ms=clock_ms)
        one.slots, one.owed = one.slots | one.owed, frozenset()
        one.host_ms = lowest_ms - clock_ms if clock_ms else None

    def host_ms(self) -> int | None:
        """Return up to when all nodes are settled, by this host's monotonic clock; None if that is unknown."""
        times = [one.host_ms for one in self._by_id.values()]
        known = [time for time in times if time is not None]
        return min(known) if known and len(known) == len(times) else None


def _some(missed: Mapping[int, tuple[Missed, ...]]) -> dict[int, tuple[Missed, ...]]:
    return {number: some for number, some in missed.items() if some}


def _heard_of(topology: Topology, feeds: Feeds) -> list[tuple[Node, dict[int, frozenset[tuple[bytes, bool]]]]]:
    """Return the nodes that some shard hears, and which part of them."""
    parts: dict[str, dict[int, list[Feed]]] = {}
    for shard, of_shard in enumerate(feeds):
        for feed in of_shard:
            parts.setdefault(feed.node.id, {}).setdefault(shard, []).append(feed)
    return [
        (
            node,
            {
                shard: frozenset((feed.last_bytes, feed.takes_empty_key) for feed in of_shard)
                for shard, of_shard in parts[node.id].items()
            },
        )
        for node in topology.nodes
        if node.id in parts
    ]
