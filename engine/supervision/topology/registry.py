"""The engine's own numbers for nodes, and what becomes of slots that are without an owner for a while.  (pure)"""

from __future__ import annotations

from msgspec.structs import replace

from engine.errors import EngineError
from engine.routing.assignment import Feeds
from engine.routing.nodes import NODES_MAX, Topology, as_ranges, slots_in, unowned_slots


class Registry:
    """Nodes by their ids. A number is never given to another node: so what shared memory says under it stays true."""

    def __init__(self, topology: Topology) -> None:
        self._numbers = {node.id: node.number for node in topology.nodes}

    def number(self, topology: Topology, feeds: Feeds) -> tuple[Topology, Feeds]:
        """Return both with all nodes numbered; raise EngineError if there are more than can be told apart."""
        new = [node.id for node in topology.nodes if node.id not in self._numbers]
        count = len(self._numbers) + len(new)
        if count > NODES_MAX:
            raise EngineError(
                f"{count} nodes have come and gone since the start, and {NODES_MAX} can be told apart: "
                "the newest are not captured",
                hint="restart the engine",
            )
        for id in new:
            self._numbers[id] = len(self._numbers)
        nodes = {node.id: replace(node, number=self._numbers[node.id]) for node in topology.nodes}
        numbered = tuple(tuple(replace(feed, node=nodes[feed.node.id]) for feed in of_shard) for of_shard in feeds)
        return replace(topology, nodes=tuple(nodes.values())), numbered


def with_owners(topology: Topology, before: Topology) -> Topology:
    """Return the topology with slots without an owner, as in the middle of a failover, left to their last owner."""
    unowned = set(slots_in(unowned_slots(topology)))
    if not unowned:
        return topology
    nodes = {node.id: node for node in topology.nodes}
    for old in before.nodes:
        left = unowned.intersection(slots_in(old.slots))
        if left:
            known = nodes.get(old.id, replace(old, slots=()))
            nodes[old.id] = replace(known, slots=as_ranges(left.union(slots_in(known.slots))))
    return replace(topology, nodes=tuple(nodes.values()))


def is_same(topology: Topology, before: Topology) -> bool:
    """Tell whether nothing has changed but the engine's own numbers, and the order."""
    return _plain(topology) == _plain(before)


def _plain(topology: Topology) -> tuple[bool, object]:
    return topology.is_cluster, {node.id: replace(node, number=0) for node in topology.nodes}
