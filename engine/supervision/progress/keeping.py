"""The supervisor's part in losing nothing: it reads the watermarks of the rings, and keeps the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec.structs import replace

from engine.clock import monotonic_ms, now_ms
from engine.config import RouteSettings, Settings
from engine.model import Missed, Watermark
from engine.observe import logs
from engine.ring.counters import Counter
from engine.routing.assignment import Feeds
from engine.routing.nodes import Topology
from engine.routing.routes import RouteTable
from engine.routing.slices import server_of
from engine.supervision.children import Child
from engine.supervision.errands.planner import Plan
from engine.supervision.memory import SharedMemory
from engine.supervision.progress.checkpoint import Checkpoint, CheckpointFile
from engine.supervision.progress.clocks import Clocks
from engine.supervision.progress.databases import among_databases
from engine.supervision.progress.progress import RESTART_INTERVALS, Progress
from engine.supervision.progress.standing import standing_of
from engine.supervision.progress.versions import NodeVersions

log = logs.get_logger(__name__)

_OF_OLD = ".engine/checkpoint"
"""Where a checkpoint was before there was a state folder."""


UNFENCED_MS = 1
"""The fence in a checkpoint if no route needs one: 0 stands for a checkpoint that does not know."""


class Keeper:
    """The checkpoint in force, and what it means for new children.

    ``streams`` has, by name, what is kept of each.
    """

    def __init__(self, settings: Settings, planned: Plan, memory: SharedMemory, checkpoints: CheckpointFile) -> None:
        self._settings = settings
        self._board, self._heard = memory.board, memory.heard
        self._checkpoints = checkpoints
        shards, invokers, self._planned = len(planned.feeds), settings.delivery.invokers, planned
        self._rings_of = [[memory.rings.ring(shard, invoker) for invoker in range(invokers)] for shard in range(shards)]
        self._due_ms = 0
        self._is_refused = False
        found, problem = checkpoints.load()
        if problem:
            log.error("checkpoint_damaged", problem=problem, used="the one before" if found else "none")
        if found is not None:
            found = _under_its_new_name(found, planned)
        if found is not None and found.scope != planned.scope:
            is_known = server_of(found.scope) == server_of(planned.scope)
            what = "checkpoint_of_another_slice" if is_known else "checkpoint_of_another_server"
            log.warning(what, found=found.scope, now=planned.scope)
        table = RouteTable.decode(planned.table)
        self._progress = Progress(
            planned.scope,
            found,
            table,
            {node.id: planned.node_ms.get(node.id, planned.server_ms) for node in planned.topology.nodes},
            is_lost=bool(problem) and found is None,
            interval_ms=settings.supervision.checkpoint_interval_ms,
            topology=planned.topology,
            feeds=planned.feeds,
            ahead_ms=Clocks.server_ahead_ms,
        )
        self.version_floor = self._progress.version_floor
        is_known = found is not None and not self._progress.is_first
        interval_us = settings.supervision.checkpoint_interval_ms * 1_000
        self._versions = NodeVersions(
            found.versions if is_known and found is not None else {},
            0 if self._progress.is_clean else RESTART_INTERVALS * interval_us,
        )
        self.streams = found.kept_of_streams() if is_known and found is not None else {}
        self._given = memory.given
        self.floors = self._versions.floors
        self._fence_after_ms = _fence_of(settings, table)
        self.fence_ms = 0
        """Until when (monotonic) an invocation of the engine before this one may still write."""
        if not self._progress.is_first and not self._progress.is_clean:
            # What was in flight was sent under the settings of that time.
            then_ms = found.fence_after_ms if found is not None else 0
            if then_ms == UNFENCED_MS and table.fenced():
                # It left no fence, since its functions refused older versions; now there is one that does not.
                then_ms = 0
            self.fence_ms = monotonic_ms() + (then_ms or fence_after_ms(settings, tuple(table.routes.values())))
        self._say_what_was_found(found)

    @property
    def is_first(self) -> bool:
        """Tell whether nothing is known of an engine before this one."""
        return self._progress.is_first

    def _say_what_was_found(self, found: Checkpoint | None) -> None:
        state, progress = self._settings.supervision.checkpoint_file, self._progress
        if not progress.is_first:
            age_s = max(0, now_ms() - found.written_at_ms) // 1_000 if found is not None else None
            oldest_ms = min((one.settled.since_ms for one in progress.nodes.all()), default=0)
            log.info("resumed", state=state, age_s=age_s, watermark_ms=oldest_ms, clean=progress.is_clean)
            return
        log.info(
            "first_start", state=state, meaning="there is no checkpoint: changes before this start are not looked for"
        )
        elsewhere = Path(_OF_OLD).absolute()
        if elsewhere.is_file() and str(elsewhere) != state:
            log.warning(
                "older_state", found=str(elsewhere), hint="is it this engine's? Then set supervision.state_folder"
            )

    def standing(self) -> dict[str, Any]:
        """Return up to when everything is settled (Unix ms by this host's clock), and the same of each node, by its own
        clock, and of each feed; and which databases that covers.
        """
        nodes, moment_ms, unix_ms = self._progress.nodes, monotonic_ms(), now_ms()
        host_ms = nodes.host_ms()
        if host_ms is None:
            settled_ms = min((one.settled.since_ms for one in nodes.all()), default=unix_ms)
        else:
            settled_ms = host_ms + unix_ms - moment_ms
        return {
            "settled_until_ms": settled_ms,
            "nodes": [standing_of(one, self._settled_of, self._heard_of, moment_ms) for one in nodes.all()],
            "topology_version": nodes.version,
            "databases": list(self._planned.databases or (self._planned.database,)),
        }

    def take_routes(self, table: RouteTable) -> None:
        """Take in a new table, which is not in force yet."""
        self._progress.take_routes(table)
        fence_ms = _fence_of(self._settings, table)
        if fence_ms > self._fence_after_ms:
            # Before anything is sent by the new table: a crash may come first.
            self._fence_after_ms = fence_ms
            self.keep(is_clean=False)

    def routes_in_force(self) -> None:
        """Note that every child routes by the newest table."""
        self._progress.in_force(self._heard_of)

    def missed_by_new_routes(self) -> tuple[Missed, ...]:
        """Return what routes that are not in force yet have to find."""
        return self._progress.whole_keyspace(is_new=True)

    def snapshots(self) -> dict[str, str]:
        """Return how far each route's snapshot of the whole keyspace is, in words."""
        return self._progress.snapshots()

    def take_topology(self, topology: Topology, feeds: Feeds) -> None:
        """Take in a newer assignment, before any child is told: from now on its new feeds' debts count."""
        self._progress.take_topology(topology, feeds)

    def missed_by(self, child: Child) -> dict[int, tuple[Missed, ...]]:
        """Return, by node number, what this subscriber has to find, because it went unheard, when it is forked."""
        if not child.forks:
            return self._progress.missed_at_start(child.index)
        return self._progress.missed_by(child.index, self._heard_of)

    def missed_since(self, child: Child, version: int) -> dict[int, tuple[Missed, ...]]:
        """Return, by node number, what this subscriber, which runs with the feeds of this version, has to find with the
        newest ones.
        """
        return self._progress.missed_since(child.index, version)

    def heard_by(self, child: Child) -> dict[int, Missed]:
        """Return, by node number, what a gap of this subscriber would miss that begins at once."""
        return self._progress.heard_by(child.index, self._heard_of)

    def turn(self, moment_ms: int) -> None:
        """Write the checkpoint if it is due."""
        if moment_ms >= self._due_ms:
            self._due_ms = moment_ms + self._settings.supervision.checkpoint_interval_ms
            self.keep(is_clean=False)

    def _settled_of(self, shard: int, node: int) -> list[Watermark]:
        return [ring.watermark(node) for ring in self._rings_of[shard]]

    def _heard_of(self, shard: int, node: int) -> tuple[int, Missed]:
        row = self._heard.row(shard)
        # The version first: what is read after it is not older.
        return row.version(node), row.get(node)

    def keep(self, *, is_clean: bool) -> None:
        """Write down how far everything is settled; a disk that refuses is reported once, and retried."""
        rows = self._board.rows
        self._progress.advance(self._settled_of, self._heard_of)
        moment_ms = monotonic_ms()
        is_clean = is_clean and all(row.get(Counter.FENCE_MS) <= moment_ms for row in rows)
        version = max(row.get(Counter.VERSION) for row in rows)
        # What the previous engine had in flight may outlast this one too.
        fence_ms = max(self._fence_after_ms, self.fence_ms - moment_ms)
        checkpoint = self._progress.checkpoint(
            version, now_ms(), moment_ms, is_clean=is_clean, fence_after_ms=fence_ms, clocks_of=Clocks.of
        )
        nodes = [one.node for one in self._progress.nodes.all() if one.node.id]
        given = {node.id: self._given.highest(node.number) for node in nodes}
        checkpoint = replace(
            checkpoint,
            versions=self._versions.keep(given, moment_ms, is_clean=is_clean),
            databases=self._planned.databases,
            streams={name: kept.settled for name, kept in self.streams.items()},
            histories={name: kept.history for name, kept in self.streams.items()},
            url=self._settings.redis.url,
            addresses=tuple(node.address for node in nodes),
        )
        problem = self._checkpoints.write(checkpoint)
        if problem and not self._is_refused:
            log.error("checkpoint_not_written", problem=problem)
        self._is_refused = bool(problem)


def _under_its_new_name(found: Checkpoint, planned: Plan) -> Checkpoint:
    """Return the checkpoint as that of the planned server, if it is of the same cluster (nodes know each other), or of
    other databases of the same server.

    A cluster has no name. Its checkpoint has that of the node in ``redis.url``, which may have changed since; and a
    former primary may be a replica now.
    """
    if not found.by_node().keys() & set(planned.members):
        return among_databases(found, planned.scope, planned.databases or (planned.database,))
    part = found.scope.removeprefix(server_of(found.scope))
    return replace(found, scope=server_of(planned.scope) + part)


def _fence_of(settings: Settings, table: RouteTable) -> int:
    """Return how long after its start an invocation may do harm."""
    return fence_after_ms(settings, table.fenced()) if table.fenced() or not table.routes else UNFENCED_MS


def fence_after_ms(settings: Settings, routes: tuple[RouteSettings, ...]) -> int:
    """Return how long after its start an invocation may write."""
    delivery = settings.delivery
    bounded_ms = delivery.deadline_ms + delivery.deadline_margin_ms
    knows_no_deadline = any(route.payload == "original" for route in routes)
    return max(bounded_ms, delivery.invoke_timeout_ms) if knows_no_deadline else bounded_ms
