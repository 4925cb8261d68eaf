"""How fast a pass goes: slowly enough for the period, and never faster than the server can bear.  (pure)

A key is looked at once in each pass, at about the same place in it, so a change is found at most one pass after it was
made. A pass is planned to take a part of the period: the rest is for catching up after slow steps.
"""

from __future__ import annotations

SHARE = 0.8
"""Of the period, a pass is planned to take."""


class Pace:
    """The steps of one pass after the other. Times are monotonic milliseconds."""

    def __init__(self, period_ms: int, keys_per_s_max: int) -> None:
        self._period_ms = period_ms
        self._keys_per_s_max = keys_per_s_max
        self._began_ms = self._due_ms = 0
        self._keys_per_s = float(keys_per_s_max)
        self._left = 0

    def begin(self, keys: int, moment_ms: int) -> None:
        """Begin a pass over this many keys."""
        self._began_ms = self._due_ms = moment_ms
        self._left = keys
        self._keys_per_s = min(self._keys_per_s_max, max(1.0, keys * 1_000 / (SHARE * self._period_ms)))

    @property
    def keys_per_s(self) -> int:
        """Return how many keys a second this pass looks at."""
        return round(self._keys_per_s)

    def spend(self, keys: int, moment_ms: int) -> None:
        """Note that a step has looked at this many keys: the next one is due once their time has passed.

        Delays are caught up within the bound, and unplanned extra keys are hurried.
        """
        self._left -= keys
        if self._left < 0:
            self._keys_per_s = float(self._keys_per_s_max)
        self._due_ms = max(
            self._due_ms + round(keys * 1_000 / self._keys_per_s),
            moment_ms + keys * 1_000 // self._keys_per_s_max,
        )

    def end(self, moment_ms: int) -> int:
        """End a pass; the next is due a period after it began. Return how long it took."""
        self._due_ms = max(moment_ms, self._began_ms + self._period_ms)
        return moment_ms - self._began_ms

    def retry(self, moment_ms: int, wait_ms: int) -> None:
        """Make nothing due for this long."""
        self._due_ms = moment_ms + wait_ms

    def is_due(self, moment_ms: int) -> bool:
        """Tell whether the next step, or pass, is due."""
        return moment_ms >= self._due_ms

    def wait_ms(self, moment_ms: int) -> int:
        """Return how long until it is."""
        return max(1, self._due_ms - moment_ms)
