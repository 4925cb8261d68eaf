"""The fork of a child: what it is handed, and what it does first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from engine.clock import monotonic_ms
from engine.config import Settings
from engine.lifecycle import Channel, ChildLink, channel_pair
from engine.ring.counters import ChildState
from engine.routing.feeds import nodes_of
from engine.routing.routes import RouteTable
from engine.supervision.children import Child, Role
from engine.supervision.errands.planner import Plan
from engine.supervision.mains import Duty, Mains, run_main
from engine.supervision.memory import SharedMemory
from engine.supervision.process import Closable, bound_sends, fork_process
from engine.supervision.progress.keeping import Keeper
from engine.supervision.progress.repairs import Repairs
from engine.supervision.topology.handover import Handover


class Forker:
    """Forks children; ``inherited`` returns what they must not keep open of the supervisor's."""

    def __init__(
        self,
        settings: Settings,
        planned: Plan,
        mains: Mains,
        memory: SharedMemory,
        keeper: Keeper,
        handover: Handover,
        repairs: Repairs,
        inherited: Callable[[], Iterable[Closable]],
    ) -> None:
        self._settings, self._planned, self._mains = settings, planned, mains
        self._memory, self._keeper, self._handover, self._repairs = memory, keeper, handover, repairs
        self._inherited = inherited

    def fork(self, child: Child, table: RouteTable) -> tuple[int, Channel]:
        """Fork this child with these routes; return its process id and our end of its channel. Raises OSError."""
        row = self._memory.board.row(child.number)
        row.set_state(ChildState.STARTING)
        row.beat(monotonic_ms())
        ours, theirs = channel_pair()
        bound_sends(ours)
        duty = self._duty_of(child, table)
        main = self._mains.subscriber if child.role is Role.SUBSCRIBER else self._mains.invoker

        def work() -> int:
            row.set_pid(os.getpid())
            return run_main(main, duty, ChildLink(theirs, row))

        try:
            pid = fork_process(child.name, work, self._settings.log, (ours, *self._inherited()))
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return pid, ours

    def _duty_of(self, child: Child, table: RouteTable) -> Duty:
        is_subscriber = child.role is Role.SUBSCRIBER
        topology, feeds = self._handover.born_with(child)
        if is_subscriber:
            self._repairs.succeed(child, (feed.node.number for feed in feeds[child.index]))
        return Duty(
            index=child.index,
            settings=self._settings,
            database=self._planned.database,
            feeds=feeds[child.index] if is_subscriber else (),
            topology=topology,
            nodes=nodes_of(feeds),
            table=table,
            rings=self._memory.rings,
            wakes=self._memory.wakes,
            heard_table=self._memory.heard,
            missed=self._keeper.missed_by(child) if is_subscriber else {},
            heard=self._keeper.heard_by(child) if is_subscriber else {},
            streams=self._keeper.streams if is_subscriber else {},
            version_floor=self._keeper.version_floor,
            floors=self._keeper.floors,
            given=self._memory.given,
            fence_ms=self._keeper.fence_ms,
            spans=self._memory.spans,
        )
