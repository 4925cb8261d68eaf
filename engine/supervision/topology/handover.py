"""A new topology while the engine runs: what is handed to which child.  (pure)

Invokers learn of the nodes before subscribers listen to them, or keys would arrive whose nodes they do not know.
"""

from __future__ import annotations

from engine.routing.assignment import Feeds
from engine.routing.nodes import Topology
from engine.supervision.children import Child
from engine.supervision.topology.rollout import Rollout


class Handover(Rollout):
    """The topology in force with its feeds, the newest one, and how the first becomes the second."""

    def __init__(self, topology: Topology, feeds: Feeds, confirm_ms_max: int) -> None:
        super().__init__(topology.version, confirm_ms_max)
        self.topology, self.feeds = topology, feeds
        self._before = (topology, feeds)

    def take(self, topology: Topology, feeds: Feeds, now_ms: int) -> None:
        """Have these handed out; nothing else is under way."""
        self._before = (self.topology, self.feeds)
        self.topology, self.feeds = topology, feeds
        self.begin(topology.version, now_ms)

    def born_with(self, child: Child) -> tuple[Topology, Feeds]:
        """Return the topology with which a child is forked now, and the feeds."""
        return (self.topology, self.feeds) if self.has_newest(child.role) else self._before
