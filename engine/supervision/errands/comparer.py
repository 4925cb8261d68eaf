"""The comparer: a process that looks for keys that a destination holds and the server does not.

Subscribers ask for it after a gap in which keys may have been deleted. One run serves all that asked before it began;
it publishes what it finds, so that subscribers hear it like any event, and is repeated until it succeeds.

It begins only when invocations that were sent before the request can no longer write: what such an invocation has read
may be gone by now, and would come back after the comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import EngineError
from engine.observe import logs
from engine.supervision.errands.errand import Errand
from engine.supervision.errands.planner import Answer, Findings, Refusal

log = logs.get_logger(__name__)

RETRY_MS_MIN, RETRY_MS_MAX = 500, 60_000
RUN_MS_MAX = 6 * 3_600_000
"""A run that takes longer than this is given up and begun again."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """A request, by a child's own count, and when a run that fulfils it may begin (monotonic ms)."""

    child: int
    number: int
    not_before_ms: int


class Comparer:
    """Who asked, and the errand that works on it."""

    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self._wishes: dict[int, list[_Wish]] = {}
        """By child, the oldest first."""
        self._served: list[_Wish] = []
        """Those for which the run under way was begun."""
        self._due_ms = 0
        self._failures = 0

    def want(self, child: int, number: int, not_before_ms: int) -> None:
        """Take in a request of a child's present process.

        A newer one replaces those before it, except the oldest: requests that keep arriving must not postpone a run.
        """
        waiting = [wish for wish in self._wishes.get(child, ()) if wish not in self._served]
        served = [wish for wish in self._wishes.get(child, ()) if wish in self._served]
        self._wishes[child] = [*served, *waiting[:1], _Wish(child, number, not_before_ms)]

    def ended(self, child: int) -> None:
        """Forget the requests of a child that has ended: its successor counts its own from the start."""
        self._wishes.pop(child, None)
        self._served = [wish for wish in self._served if wish.child != child]

    def is_due(self, now_ms: int) -> bool:
        """Tell whether a run should begin now."""
        return self._errand.process is None and now_ms >= self._due_ms and bool(self._ripe(now_ms))

    def _ripe(self, now_ms: int) -> list[_Wish]:
        return [wish for wishes in self._wishes.values() for wish in wishes if now_ms >= wish.not_before_ms]

    def start(self, work: Callable[[], Answer], now_ms: int) -> None:
        """Begin a run for all requests that a run beginning now may fulfil."""
        try:
            self._errand.start(work, now_ms + RUN_MS_MAX)
        except EngineError as error:
            self._failed(str(error), now_ms)
            return
        self._served = self._ripe(now_ms)

    def poll(self, now_ms: int) -> dict[int, int] | None:
        """Return the requests that are fulfilled ({child: request}), none if the run failed, None while it runs."""
        answer = self._errand.poll(now_ms)
        if answer is None:
            return None
        if not isinstance(answer, Findings):
            assert isinstance(answer, Refusal)
            self._served = []
            self._failed("; ".join(map(str, answer.problems)), now_ms)
            return {}
        self._failures = 0
        log.info("compared", keys=answer.compared, gone=answer.published, unknown=answer.unknown)
        if answer.unknown:
            log.warning(
                "extra_keys_kept",
                keys=answer.unknown,
                hint="destinations hold them, the server does not, and the reason is unknown: engine audit lists them",
            )
        for route, what in answer.held.items():
            log.error(
                "deletions_held",
                route=route,
                found_gone=what,
                hint=f"'engine deletions accept {route}' deletes them, 'engine deletions refuse {route}' keeps them",
            )
        served, self._served = self._served, []
        for child, wishes in self._wishes.items():
            self._wishes[child] = [wish for wish in wishes if wish not in served]
        return {wish.child: wish.number for wish in served}

    def _failed(self, problem: str, now_ms: int) -> None:
        self._failures += 1
        wait_ms = min(RETRY_MS_MAX, RETRY_MS_MIN << min(self._failures, 10))
        self._due_ms = now_ms + wait_ms
        log.warning("comparison_failed", problem=problem, retry_in_ms=wait_ms)
