"""How many invocations at once, and how many of them may be retries.  (pure)

Two small governors of a lane that shares a target with others. The *limit* follows the target's capacity, as TCP
follows a network's: halved when it throttles, grown by about one for each full round of successes. The *budget* bounds
how much of the traffic is retries, so that a recovering target is not held down by earlier failures.
"""

from __future__ import annotations

import math

THROTTLE_PAUSE_MS = 500
"""Throttles this close together count as one: they answer invocations that were sent under the same limit."""


class ConcurrencyLimit:
    """How many invocations a lane may have in flight: from 1 to its parallelization."""

    def __init__(self, slots: int) -> None:
        assert slots > 0
        self._slots_max = slots
        self._limit = float(slots)
        self._halved_ms: int | None = None

    @property
    def slots(self) -> int:
        """Return how many invocations may be in flight now."""
        return int(self._limit)

    def throttled(self, now_ms: int) -> None:
        """Note that the target refused an invocation because there were too many."""
        if self._halved_ms is None or not 0 <= now_ms - self._halved_ms < THROTTLE_PAUSE_MS:
            self._halved_ms = now_ms
            self._limit = max(1.0, self._limit / 2)

    def succeeded(self) -> None:
        """Note that an invocation was accepted."""
        self._limit = min(float(self._slots_max), self._limit + 1 / self._limit)

    def resize(self, slots: int) -> None:
        """Set another maximum; a limit at the old maximum follows, a throttled one grows there by successes."""
        assert slots > 0
        is_free = self._limit >= self._slots_max
        self._slots_max = slots
        self._limit = float(slots) if is_free else min(self._limit, float(slots))


class RetryBudget:
    """Tokens for retries: they come back slowly with time, and a little with every success.

    The idea is that of the AWS SDKs' standard retry mode (a quota of tokens, refunded by successes); the refill by
    time lets a lane go on probing a target that has no successes to give.
    """

    def __init__(self, tokens_max: float = 100.0, refill_per_s: float = 2.0, refund: float = 0.2) -> None:
        assert tokens_max > 0
        assert refill_per_s > 0
        assert refund >= 0
        self._tokens_max = tokens_max
        self._refill_per_ms = refill_per_s / 1_000
        self._refund = refund
        self._tokens = tokens_max
        self._at_ms: int | None = None

    @property
    def tokens(self) -> float:
        """Return how many tokens there were at the last `take`, with what successes have given since."""
        return self._tokens

    def take(self, now_ms: int, cost: float = 1.0) -> int:
        """Pay for a retry and return 0; if there are too few tokens, pay nothing and return the ms until there are
        enough.

        A cost above the budget's capacity empties it completely.
        """
        if self._at_ms is not None and now_ms > self._at_ms:
            self._add((now_ms - self._at_ms) * self._refill_per_ms)
        self._at_ms = now_ms
        price = min(cost, self._tokens_max)
        # The refill in the milliseconds below may fall short by a rounding error.
        lacking = price - self._tokens
        if lacking > 1e-6:
            return math.ceil(lacking / self._refill_per_ms)
        self._tokens = max(0.0, self._tokens - price)
        return 0

    def succeeded(self) -> None:
        """Note that an invocation was accepted."""
        self._add(self._refund)

    def _add(self, tokens: float) -> None:
        self._tokens = min(self._tokens_max, self._tokens + tokens)
