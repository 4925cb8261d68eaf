"""What changes while the engine runs, routes and nodes: read and handed to the children, one of the two at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from engine.clock import monotonic_ms
from engine.config import Settings
from engine.lifecycle import (
    MappingChanged,
    Message,
    PromiseBroken,
    RoutesInForce,
    StreamsSettled,
    TopologyChanged,
    TopologyInForce,
)
from engine.observe import logs
from engine.routing.routes import RouteTable
from engine.supervision.children import Child
from engine.supervision.errands.errand import Errand
from engine.supervision.errands.planner import Plan
from engine.supervision.errands.replanning import Planner, Replanning
from engine.supervision.progress.keeping import Keeper
from engine.supervision.reload import Reload
from engine.supervision.topology.handover import Handover
from engine.supervision.topology.retopology import AskNodes, Retopology
from engine.supervision.topology.rollout import InForce, Stage, Step, Teach
from engine.supervision.topology.watched import WatchedFile

log = logs.get_logger(__name__)


class Changes:
    """Both of them. The owner sends what is to be sent, and replaces children that do not confirm."""

    def __init__(
        self,
        settings: Settings,
        planned: Plan,
        plan: Planner,
        load: Callable[[], Settings],
        ask: AskNodes | None,
        errands: tuple[Errand, Errand],
        keeper: Keeper,
        watched: WatchedFile,
    ) -> None:
        confirm_ms_max = int(settings.supervision.heartbeat_timeout_s * 1_000)
        self.reload = Reload(RouteTable.decode(planned.table), confirm_ms_max)
        self.handover = Handover(planned.topology, planned.feeds, confirm_ms_max)
        self._settings, self._keeper, self._watched = settings, keeper, watched
        planning, asking = errands
        self._replanning = Replanning(settings, plan, load, planning, self.reload, keeper, planned.warnings)
        self._retopology = Retopology(settings, planned, ask, asking, self.handover, keeper)

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is read or handed out."""
        return self.reload.stage is self.handover.stage is Stage.IDLE

    def route_names(self) -> str:
        """Return the names of the newest routes, for people."""
        return ", ".join(route.name for route in self.reload.newest.routes.values())

    def forked(self, child: Child) -> None:
        """Note that this child started with what its kind has now."""
        self.reload.forked(child)
        self.handover.forked(child)

    def hear(self, number: int, message: Message) -> None:
        """Take in what a child says of them, if it does."""
        match message:
            case RoutesInForce(version):
                self.reload.confirmed(number, version)
            case TopologyInForce(version):
                self.handover.confirmed(number, version)
            case TopologyChanged(reason):
                self._retopology.want(reason, monotonic_ms())
            case StreamsSettled(settled):
                self._keeper.streams.update(settled)
            case MappingChanged() | PromiseBroken():
                self.reload.want(monotonic_ms())

    def turn(self, children: tuple[Child, ...], send: Callable[[int, Message], None]) -> Iterable[tuple[int, str]]:
        """Continue; return which children are to be replaced, and why. Neither change begins during the other."""
        late: list[tuple[int, str]] = []
        now_ms = monotonic_ms()
        if self._watched.has_changed(now_ms):
            log.info("settings_changed", reading="routes")
            self.reload.want(now_ms)
        if not self.reload.is_under_way:
            if not self.handover.is_under_way:
                self._retopology.turn(now_ms)
            steps = self.handover.step(children, now_ms)
            late += _take(steps, lambda number: send(number, self._retopology.lesson(children[number])), "nodes")
            if InForce() in steps:
                self._note_topology(now_ms)
        if not self.handover.is_under_way:
            self._replanning.turn(now_ms)
            steps = self.reload.step(children, now_ms)
            late += _take(steps, lambda number: send(number, self._replanning.lesson(children[number])), "routes")
            if InForce() in steps:
                self._keeper.routes_in_force()
                log.info("routes_in_force", version=self.reload.newest.version, routes=self.route_names())
        return late

    def _note_topology(self, now_ms: int) -> None:
        log.info("topology_in_force", version=self.handover.topology.version)
        if self._settings.original.mapping_prefix:
            # A mapping hash on a node that was not listened to may have changed.
            self.reload.want(now_ms)


def _take(steps: Iterable[Step], teach: Callable[[int], None], what: str) -> list[tuple[int, str]]:
    late = []
    for step in steps:
        if isinstance(step, Teach):
            teach(step.number)
        elif not isinstance(step, InForce):
            late.append((step.number, f"it did not confirm the new {what} in time"))
    return late
