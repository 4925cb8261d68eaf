"""What outcomes say of a target: whether it is in trouble, how much to ask of it, how long to leave it.  (pure)"""

from __future__ import annotations

from collections.abc import Callable

from engine.delivery.lanes.limit import ConcurrencyLimit, RetryBudget
from engine.delivery.lanes.retry import Backoff
from engine.delivery.lanes.verdict import Again
from engine.model import Failure, Outcome


class Health:
    """One target as one lane sees it; times are monotonic milliseconds."""

    def __init__(self, slots: int, backoff: Backoff) -> None:
        self.is_troubled = False
        """Whether the newest outcome was a failure of the route as a whole."""
        self.backoff = backoff
        self._failures_in_row = 0
        self._limit = ConcurrencyLimit(slots)
        self._budget = RetryBudget()

    @property
    def slots(self) -> int:
        """Return how many invocations may be in flight now."""
        return self._limit.slots

    def begin_anew(self, slots: int) -> None:
        """Take in that the target is another one, or has other settings."""
        self.is_troubled = False
        self._failures_in_row = 0
        self._limit.resize(slots)

    def take_in(self, outcome: Outcome, moment_ms: int) -> None:
        """Draw from an outcome what it says of the target."""
        self.is_troubled = outcome.failure not in {Failure.NONE, Failure.ITEMS}
        if not self.is_troubled:
            self._failures_in_row = 0
            self._limit.succeeded()
            self._budget.succeeded()
        elif outcome.failure is Failure.THROTTLED:
            self._limit.throttled(moment_ms)

    def wait_ms(self, answer: Again, outcome: Outcome, moment_ms: int, random: Callable[[], float]) -> tuple[int, int]:
        """Return how long the batch waits for its next attempt, and for how long of that the whole route pauses."""
        batch, pause_ms = answer.batch, 0
        if answer.counts:
            wait_ms = self.backoff.wait_ms(max(1, batch.attempts), random)
        else:
            self._failures_in_row += 1
            pause_ms = max(self.backoff.wait_ms(self._failures_in_row, random), outcome.retry_after_ms)
            wait_ms = pause_ms
        return max(wait_ms, self._budget.take(moment_ms), batch.fence_ms - moment_ms), pause_ms
