"""What outcomes say about a target: whether it is in trouble, how much to send it, how long to wait.  (pure)

A target is *in trouble* while its newest outcome settled nothing, whatever the reason. After a second of that it is
*down*: keys wait for their next attempts as before, and one small batch a second probes whether it has recovered. So
recovery is noticed within a second, however long the waits have become.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.delivery.lanes.limit import ConcurrencyLimit, RetryBudget
from engine.delivery.lanes.retry import Backoff
from engine.delivery.lanes.verdict import Again, reason_of
from engine.delivery.lanes.work import Batch
from engine.model import Failure, Outcome

PROBE_MS = 1_000
"""How often a target that is down is probed."""
PROBE_KEYS = 10
"""With how many keys."""


class Health:
    """One target as one lane sees it; times are monotonic milliseconds."""

    def __init__(self, slots: int, backoff: Backoff, moment_ms: int) -> None:
        self.backoff = backoff
        self.error = ""
        """Why the last delivery failed, in words; it stays after the target has recovered."""
        self.error_ms = 0
        """When that was; 0 if none has failed."""
        self.is_limited = False
        """Whether records are given up after some attempts: then each attempt counts, and none is made early."""
        self._limit = ConcurrencyLimit(slots)
        self._budget = RetryBudget()
        self._proof_ms = 0
        """When the newest batch of which something was accepted was sent."""
        self._begin(moment_ms)

    def _begin(self, moment_ms: int) -> None:
        self.is_troubled = False
        """Whether the newest outcome settled nothing."""
        self.failing_since_ms = 0
        """When the first outcome that settled nothing arrived, since the last that did; 0 for none."""
        self._well_ms = self._asked_ms = moment_ms
        self._asks_after_ms = 0
        self._failures_in_row = 0
        self._suspects_fail = False

    def begin_anew(self, slots: int, moment_ms: int) -> None:
        """Note that the target was replaced, or has other settings."""
        self._limit.resize(slots)
        self._begin(moment_ms)

    @property
    def slots(self) -> int:
        """Return how many invocations may be in flight now."""
        return self._limit.slots

    @property
    def suspects_max(self) -> int:
        """Return how many of them may carry keys that failed by themselves before."""
        return max(1, self.slots // 2) if self._suspects_fail else self.slots

    def is_down(self, moment_ms: int) -> bool:
        """Tell whether nothing has been settled for a while, though it was tried."""
        return self.is_troubled and moment_ms - self._well_ms >= PROBE_MS

    def has_delivered_since(self, moment_ms: int) -> bool:
        """Tell whether something was accepted that was sent after this moment."""
        return self._proof_ms > moment_ms

    def take_in(self, sent: Batch, outcome: Outcome, moment_ms: int, *, settles: bool) -> bool:
        """Learn from an outcome about the target; return True if it has recovered.

        ``settles``: something of the batch was accepted.
        """
        if sent.is_suspect:
            self._suspects_fail = not settles
        if outcome.failure is Failure.THROTTLED:
            self._limit.throttled(moment_ms)
        if outcome.failure is not Failure.NONE:
            self.error, self.error_ms = reason_of(outcome), moment_ms
        if not settles:
            self.is_troubled = True
            self.failing_since_ms = self.failing_since_ms or moment_ms
            self._asks_after_ms = max(self._asks_after_ms, moment_ms + outcome.retry_after_ms)
            return False
        was_down = self.is_down(moment_ms)
        self.is_troubled = False
        self.failing_since_ms = 0
        self._well_ms = moment_ms
        self._proof_ms = max(self._proof_ms, sent.sent_ms)
        self._failures_in_row = self._asks_after_ms = 0
        self._limit.succeeded()
        self._budget.succeeded()
        return was_down

    def nothing_left(self) -> None:
        """Note that nothing that failed is waiting any longer: the next failure is a new trouble."""
        self.failing_since_ms = 0

    def asked(self, moment_ms: int) -> None:
        """Note that the target is being probed, or that there is nothing to probe it with."""
        self._asked_ms = moment_ms

    def asks_at_ms(self, moment_ms: int, *, is_paused: bool = False) -> int | None:
        """Return when to probe a target that is down; None if it is not."""
        if not self.is_down(moment_ms) or (self.is_limited and not is_paused):
            return None
        return max(self._asked_ms + PROBE_MS, self._asks_after_ms)

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
