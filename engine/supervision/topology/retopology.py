"""The nodes, asked for again: when something has changed, and on a slow timer; the result is handed over."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from engine.config import Settings
from engine.errors import EngineError
from engine.lifecycle import SetFeeds, SetTopology
from engine.observe import logs
from engine.routing.feeds import nodes_of
from engine.routing.nodes import Topology
from engine.supervision.children import Child, Role
from engine.supervision.errands.errand import Errand
from engine.supervision.errands.planner import Answer, Nodes, Plan, Refusal
from engine.supervision.progress.keeping import Keeper
from engine.supervision.topology.handover import Handover
from engine.supervision.topology.registry import Registry, is_same

log = logs.get_logger(__name__)

DEBOUNCE_MS = 100
"""A failover shows in several places at once."""
RETRY_MS_MIN, RETRY_MS_MAX = 500, 10_000

AskNodes = Callable[[Settings, int, Nodes], Answer]
"""Settings, database and what is in force → what is to be; runs in a process of its own."""


class Retopology:
    """Asks for the nodes, numbers them, and has them handed to the children; forever, whatever fails."""

    def __init__(
        self,
        settings: Settings,
        planned: Plan,
        ask: AskNodes | None,
        errand: Errand,
        handover: Handover,
        keeper: Keeper,
    ) -> None:
        self._settings, self._database, self._ask = settings, planned.database, ask
        self._errand, self._handover, self._keeper = errand, handover, keeper
        self._registry = Registry(planned.topology)
        self._epoch, self._is_whole = planned.epoch, planned.is_whole
        self._timer_ms: int | None = None
        self._due_ms: int | None = None if planned.is_whole else 0
        self._failures = 0
        self._problem = ""
        self._said: tuple[str, ...] = ()

    def want(self, reason: str, now_ms: int) -> None:
        """Request that the nodes are asked for: a child saw that they may have changed."""
        if self._due_ms is None:
            log.debug("topology_changed", reason=reason)
            self._due_ms = now_ms + DEBOUNCE_MS
        if self._failures == 0:
            self._due_ms = min(self._due_ms, now_ms + DEBOUNCE_MS)

    def turn(self, now_ms: int) -> None:
        """Ask if that is due; take in the answer. Nothing is being handed over."""
        if self._ask is None:
            return
        answer = self._errand.poll(now_ms)
        if answer is not None:
            self._take(answer, now_ms)
        elif self._errand.process is None and self._is_due(now_ms):
            self._start(self._ask, now_ms)

    def lesson(self, child: Child) -> SetTopology | SetFeeds:
        """Return what is new for a child, and what a subscriber's new feeds have to find first."""
        topology = self._handover.topology
        if child.role is Role.INVOKER:
            return SetTopology(topology, nodes_of(self._handover.feeds))
        feeds = self._handover.feeds[child.index]
        missed = self._keeper.missed_since(child, self._handover.version_of(child))
        return SetFeeds(topology.version, feeds, missed, self._keeper.streams)

    def _is_due(self, now_ms: int) -> bool:
        if self._timer_ms is None and _may_change(self._settings, self._handover.topology):
            self._timer_ms = now_ms + self._settings.capture.topology_interval_ms
        due = [moment_ms for moment_ms in (self._due_ms, self._timer_ms) if moment_ms is not None]
        return bool(due) and now_ms >= min(due)

    def _start(self, ask: AskNodes, now_ms: int) -> None:
        self._due_ms = self._timer_ms = None
        settings, database = self._settings, self._database
        before = Nodes(self._handover.topology, self._handover.feeds, self._epoch, is_whole=self._is_whole)
        try:
            limit_ms = int(settings.supervision.ready_timeout_s * 1_000)
            self._errand.start(lambda: ask(settings, database, before), now_ms + limit_ms)
        except EngineError as error:
            self._fail(str(error), now_ms)

    def _take(self, answer: Answer, now_ms: int) -> None:
        if not isinstance(answer, Nodes):
            assert isinstance(answer, Refusal)
            self._fail("; ".join(str(problem) for problem in answer.problems), now_ms)
            return
        for told in set(answer.told) - set(self._said):
            log.warning("worth_knowing", message=told)
        self._said = answer.told
        try:
            topology, feeds = self._registry.number(answer.topology, answer.feeds)
        except EngineError as error:
            self._fail(str(error), now_ms)
            return
        if self._problem:
            log.info("topology_known_again")
        self._failures, self._problem = 0, ""
        self._epoch, self._is_whole = answer.epoch, answer.is_whole
        before = self._handover.topology
        if is_same(topology, before) and feeds == self._handover.feeds:
            return
        topology = replace(topology, version=before.version + 1)
        _say(topology, before)
        self._keeper.take_topology(topology, feeds)
        self._handover.take(topology, feeds, now_ms)

    def _fail(self, problem: str, now_ms: int) -> None:
        """Retry, at growing intervals; what was in force stays."""
        if problem != self._problem:
            log.warning("topology_unknown", problem=problem, hint="the engine asks again; feeds stay as they are")
        self._problem = problem
        wait_ms = min(RETRY_MS_MAX, RETRY_MS_MIN << min(self._failures, 8))
        self._failures += 1
        self._due_ms = now_ms + wait_ms


def _may_change(settings: Settings, topology: Topology) -> bool:
    """Tell whether nodes may change without anybody's noticing."""
    if topology.is_cluster or settings.redis.read_from == "replica" or "+sentinel:" in settings.redis.url:
        return True
    # Its name led to a replica, and may lead to a primary again.
    return any(node.place for node in topology.nodes)


def _say(topology: Topology, before: Topology) -> None:
    """Report which nodes joined and left, and how many slots have another owner."""
    were, are = ({node.id: node for node in one.nodes} for one in (before, topology))
    owners = zip(before.owners(), topology.owners(), strict=True)
    moved = sum((old and old.id) != (new and new.id) for old, new in owners)
    log.info(
        "topology_new",
        version=topology.version,
        nodes=len(are),
        came=", ".join(node.address for id, node in are.items() if id not in were),
        went=", ".join(node.address for id, node in were.items() if id not in are),
        slots_moved=moved,
    )
