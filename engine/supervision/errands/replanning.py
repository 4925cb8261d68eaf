"""New routes, from the request to the table: the planner reads them, while the engine runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from engine.config import Settings
from engine.errors import EngineError
from engine.lifecycle import SetRoutes
from engine.observe import logs
from engine.routing.routes import RouteTable
from engine.supervision.children import Child, Role
from engine.supervision.errands.errand import Errand
from engine.supervision.errands.planner import Answer, Plan, Refusal
from engine.supervision.progress.keeping import Keeper
from engine.supervision.reload import Reload, takes_a_restart, with_routes_of

log = logs.get_logger(__name__)

Planner = Callable[[Settings, bytes | None], Answer]
"""Settings and the encoded table in force → what to do; runs in the planner's process."""


class Replanning:
    """Has the routes read again when requested, and hands the result to the reload."""

    def __init__(
        self,
        settings: Settings,
        plan: Planner,
        load: Callable[[], Settings],
        errand: Errand,
        reload: Reload,
        keeper: Keeper,
        said: Iterable[str] = (),
    ) -> None:
        self._settings, self._plan, self._load = settings, plan, load
        self._errand, self._reload, self._keeper = errand, reload, keeper
        self._said = set(said)

    def turn(self, now_ms: int) -> None:
        """Begin if routes are wanted; take in what was read."""
        if self._reload.is_due(now_ms):
            self._start(now_ms)
        answer = self._errand.poll(now_ms)
        if answer is not None:
            self._take(answer, now_ms)

    def lesson(self, child: Child) -> SetRoutes:
        """Return the newest table for a child, and for a subscriber what its new routes have to receive first."""
        missed = self._keeper.missed_by_new_routes() if child.role is Role.SUBSCRIBER else ()
        return SetRoutes(self._reload.newest.encode(), missed)

    def _start(self, now_ms: int) -> None:
        self._reload.planning()
        settings, load, table = self._settings, self._load, self._reload.newest.encode()

        def work() -> Answer:
            fresh = load()
            answer = self._plan(with_routes_of(settings, fresh), table)
            if isinstance(answer, Plan):
                return msgspec.structs.replace(answer, unheeded=takes_a_restart(settings, fresh))
            return answer

        try:
            self._errand.start(work, now_ms + int(settings.supervision.ready_timeout_s * 1_000))
        except EngineError as error:
            log.error("reload_refused", error=error.message, hint=error.hint)
            self._reload.refused()

    def _take(self, answer: Answer, now_ms: int) -> None:
        if isinstance(answer, Plan):
            table = RouteTable.decode(answer.table)
            self._keeper.take_routes(table)
            if answer.unheeded:
                log.warning("needs_a_restart", settings=", ".join(answer.unheeded), hint="a reload takes routes alone")
            if not self._reload.planned(table, now_ms):
                log.info("routes_unchanged", version=self._reload.newest.version)
                return
            for warning in answer.warnings:
                if warning not in self._said:
                    log.warning("worth_knowing", message=warning)
            self._said = set(answer.warnings)
            return
        assert isinstance(answer, Refusal)
        for problem in answer.problems:
            log.error("reload_refused", place=problem.place, error=problem.message, hint=problem.hint)
        self._reload.refused()
