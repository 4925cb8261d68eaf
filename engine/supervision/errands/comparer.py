"""The comparer: a process that looks for keys which a destination holds and the server does not.

Subscribers ask for it after a gap in which keys may have been deleted. One run serves all that asked before it began;
it publishes what it finds, so that subscribers hear of it like of any event, and is repeated until it succeeds.

It begins only when no invocation can write any more that was sent before it was asked for: what such a one has read may
be gone by now, and would come back behind the comparison.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.errors import EngineError
from engine.observe import logs
from engine.supervision.errands.errand import Errand
from engine.supervision.errands.planner import Answer, Findings, Refusal

log = logs.get_logger(__name__)

RETRY_MS_MIN, RETRY_MS_MAX = 500, 60_000
RUN_MS_MAX = 6 * 3_600_000
"""A run that takes longer than this is given up and begun again."""


class Comparer:
    """Who asked, and the errand that works on it."""

    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self._wishes: dict[int, int] = {}
        self._served: dict[int, int] = {}
        self._due_ms = 0
        self._failures = 0

    def want(self, child: int, wish: int, not_before_ms: int) -> None:
        """Take in a subscriber's wish; a newer one of the same stands for the older."""
        self._wishes[child] = wish
        self._due_ms = max(self._due_ms, not_before_ms)

    def is_due(self, now_ms: int) -> bool:
        """Tell whether a run should begin now."""
        return self._errand.process is None and bool(self._wishes) and now_ms >= self._due_ms

    def start(self, work: Callable[[], Answer], now_ms: int) -> None:
        """Begin a run for all that have asked."""
        try:
            self._errand.start(work, now_ms + RUN_MS_MAX)
        except EngineError as error:
            self._failed(str(error), now_ms)
            return
        self._served = dict(self._wishes)

    def poll(self, now_ms: int) -> dict[int, int] | None:
        """Return the wishes that are fulfilled ({child: wish}), none where the run failed, None while it goes on."""
        answer = self._errand.poll(now_ms)
        if answer is None:
            return None
        if not isinstance(answer, Findings):
            assert isinstance(answer, Refusal)
            self._failed("; ".join(map(str, answer.problems)), now_ms)
            return {}
        self._failures = 0
        log.info("compared", keys=answer.compared, gone=answer.published, unknown=answer.unknown)
        if answer.unknown:
            log.warning(
                "extra_keys_kept",
                keys=answer.unknown,
                hint="destinations hold them, the server does not, and nobody knows why: engine audit shows them",
            )
        for route, what in answer.held.items():
            log.error(
                "deletions_held",
                route=route,
                found_gone=what,
                hint=f"'engine deletions accept {route}' deletes them, 'engine deletions refuse {route}' keeps them",
            )
        for child, wish in self._served.items():
            if self._wishes.get(child) == wish:
                del self._wishes[child]
        return self._served

    def _failed(self, problem: str, now_ms: int) -> None:
        self._failures += 1
        wait_ms = min(RETRY_MS_MAX, RETRY_MS_MIN << min(self._failures, 10))
        self._due_ms = now_ms + wait_ms
        log.warning("comparison_failed", problem=problem, retry_in_ms=wait_ms)
