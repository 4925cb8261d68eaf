"""How far delivery has come, and what a start, or a replaced subscriber, has to find first.  (pure)"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engine.model import EVERY_ROUTE, THE_BEGINNING_MS, Missed
from engine.routing.assignment import Feeds
from engine.routing.nodes import Topology, as_ranges
from engine.routing.routes import RouteTable
from engine.routing.slices import server_of
from engine.supervision.progress.checkpoint import FORMAT, HEARD_SINCE_FORMAT, Checkpoint, NodeKept
from engine.supervision.progress.clocks import Clocks
from engine.supervision.progress.nodes import Heard as HeardNode
from engine.supervision.progress.nodes import NodeProgress, Nodes, Settled
from engine.supervision.progress.snapshots import Heard, Snapshots

RESTART_INTERVALS = 2
"""In intervals of the checkpoint, versions given out after it: one interval that passed, and one unseen before it."""


class Progress:
    """The watermarks of all nodes, and the routes that still wait for the whole keyspace."""

    def __init__(
        self,
        scope: str,
        found: Checkpoint | None,
        table: RouteTable,
        now_ms: Mapping[str, int],
        *,
        is_lost: bool,
        topology: Topology,
        feeds: Feeds,
        interval_ms: int = 1_000,
        ahead_ms: Callable[[Clocks], int] = lambda clocks: 0,
    ) -> None:
        """Begin with what a checkpoint says; ``is_lost`` if there was one that can't be read.

        ``now_ms`` is, by node id, where a first start begins (Unix time, the node's own clock); a checkpoint is kept
        every ``interval_ms``. ``ahead_ms`` says how far ahead of this host's monotonic clock a node's is.
        """
        version = found.version if found is not None else 0
        if found is not None and found.scope != scope:
            # Of another slice: this engine has not listened to what is in the present one.
            is_lost = server_of(found.scope) == server_of(scope)
            found = None
        self.is_first = found is None and not is_lost
        self._scope = scope
        kept = found.by_node() if found is not None else {}
        ahead = {id: ahead_ms(node.clocks) for id, node in kept.items()}
        self.nodes = Nodes(topology, feeds, kept, ahead, now_ms if self.is_first else None)
        names = {route.name for route in table.routes.values()}
        if found is not None and found.format >= HEARD_SINCE_FORMAT:
            past = dict(found.heard)
        else:
            # An older checkpoint knows the names of routes that had what they were promised, but not their filters. A
            # lost one means the whole keyspace for all.
            had = names if is_lost else names.intersection(found.routes if found else ())
            past = {r.name: Heard.by(r, is_whole=True) for r in table.routes.values() if r.name in had}
        self._snapshots = Snapshots(past, table, now_ms)
        self._is_clean = found.is_clean if found else not is_lost
        unseen_us = 0 if self._is_clean else RESTART_INTERVALS * interval_ms * 1_000
        self.version_floor = version + unseen_us if version and not self.is_first else 0
        self._version, self._version_ms = 0, 0

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing of the previous engine can still be in flight."""
        return self._is_clean

    def take_topology(self, topology: Topology, feeds: Feeds) -> None:
        """Take in a newer assignment, which need not be in force yet."""
        self.nodes.take_topology(topology, feeds)

    def take_routes(self, table: RouteTable, after_ms: Mapping[str, int] | None = None) -> None:
        """Take in a table; its new routes' waiting ends after ``after_ms``, or begins `in_force`."""
        self._snapshots.take_routes(table, after_ms)

    def in_force(self, heard: HeardNode) -> None:
        """Note that all children route by the newest table; no subscriber had sent a younger watermark before."""
        self._snapshots.in_force(
            {
                one.node.id: max(heard(shard, one.node.number)[1].since_ms for shard in one.parts)
                for one in self.nodes.all()
            }
        )

    def whole_keyspace(self, *, is_new: bool = False) -> tuple[Missed, ...]:
        """Return the scan for routes that begin with the whole keyspace, or only for the new ones among them."""
        return self._snapshots.missed(is_new=is_new)

    def snapshots(self) -> dict[str, str]:
        """Return how far each route's snapshot of the whole keyspace is, in words."""
        return self._snapshots.states()

    def missed_at_start(self, shard: int) -> dict[int, tuple[Missed, ...]]:
        """Return what the first subscriber of a shard has to find, by node number: what routes that had begun missed
        while no engine listened.
        """
        whole = self.whole_keyspace()
        routes = 0 if self.is_first else self._snapshots.listening() or EVERY_ROUTE
        return self.nodes.missed_at_start(shard, routes, whole)

    def missed_by(self, shard: int, heard: HeardNode) -> dict[int, tuple[Missed, ...]]:
        """Return what the successor of a subscriber has to find, by node number."""
        return self.nodes.missed_by_successor(shard, heard, self.whole_keyspace())

    def missed_since(self, shard: int, version: int) -> dict[int, tuple[Missed, ...]]:
        """Return what a subscriber with the feeds of this version has to find with the newest ones, by node number."""
        return self.nodes.missed_since(shard, version, self.whole_keyspace())

    def heard_by(self, shard: int, heard: HeardNode) -> dict[int, Missed]:
        """Return what a gap of this shard that begins at once would miss, by node number."""
        return self.nodes.heard_by(shard, heard)

    def advance(self, settled: Settled, heard: HeardNode) -> None:
        """Take in the settled watermarks of the rings.

        No watermark passes a scan that is under way, so one that is younger than a route's beginning ends it.
        """
        self.nodes.advance(settled, heard)
        nodes = self.nodes.all()
        if not any(one.owed for one in nodes):
            self._snapshots.advance({one.node.id: one.settled.since_ms for one in nodes})

    def checkpoint(
        self,
        version: int,
        written_at_ms: int,
        moment_ms: int,
        *,
        is_clean: bool,
        fence_after_ms: int = 0,
        clocks_of: Callable[[int], Clocks] = lambda ahead_ms: Clocks(),
    ) -> Checkpoint:
        """Return what to keep: ``version`` is the highest that was given out, ``moment_ms`` the monotonic time.

        Invocations write no more once ``fence_after_ms`` have passed after their start. ``clocks_of`` converts how far
        a node's clock is ahead into a form that outlives this host's monotonic clock.

        Versions grow with time: if no key was read for a while, the next one will be higher by that.
        """
        if version > self._version:
            self._version, self._version_ms = version, moment_ms
        elif version and not is_clean:
            version += (moment_ms - self._version_ms) * 1_000
        nodes = {one.node.id: _kept(one, clocks_of) for one in self.nodes.all()}
        only = nodes.get("", NodeKept(THE_BEGINNING_MS))
        return Checkpoint(
            self._scope,
            only.watermark_ms,
            only.server_mark,
            max(version, self.version_floor),
            self._snapshots.done(),
            is_clean,
            written_at_ms,
            format=FORMAT,
            heard=self._snapshots.kept(),
            fence_after_ms=fence_after_ms,
            clocks=only.clocks,
            nodes=nodes,
        )


def _kept(one: NodeProgress, clocks_of: Callable[[int], Clocks]) -> NodeKept:
    settled = one.settled
    return NodeKept(
        settled.since_ms,
        settled.server_mark,
        clocks_of(settled.clock_ms),
        as_ranges(one.slots),
        as_ranges(one.endings),
    )
