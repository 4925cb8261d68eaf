"""Time, in the units that the engine uses; handed to pure code as an argument."""

from __future__ import annotations

import time
from collections.abc import Callable

FEW = 8
"""This many changes are worth a turn: if more arrive in an interval, turns may follow each other sooner."""
SOONER = 3
"""At most this many times sooner."""


def now_ms() -> int:
    """Return Unix time in milliseconds: for records and people."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Return a clock that never jumps, in milliseconds: for deadlines and ages in one host."""
    return time.monotonic_ns() // 1_000_000


class Pace:
    """Keeps a loop's turns an interval apart while changes keep coming, so that they share a turn.

    A change that arrives alone finds the interval over, and does not wait. When many arrive, waiting gains less: the
    interval is the one in which `FEW` would have come, at the rate of the last turn.
    """

    __slots__ = ("_began_s", "_clock", "_interval_s", "_passed_s", "_sleep")

    def __init__(
        self,
        interval_ms: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Keep turns this far apart; 0 for no pace at all."""
        self._interval_s = interval_ms / 1_000
        self._clock, self._sleep = clock, sleep
        self._began_s = self._passed_s = 0.0

    def begin(self) -> None:
        """Begin a turn: what has arrived is taken up now."""
        if self._interval_s:
            moment_s = self._clock()
            self._passed_s, self._began_s = moment_s - self._began_s, moment_s

    def keep(self, changes: int) -> None:
        """Sleep for the rest of the interval, after a turn that took up this many changes."""
        interval_s = self._interval_s
        if not interval_s:
            return
        if changes > FEW:
            interval_s = min(interval_s, max(interval_s / SOONER, self._passed_s * FEW / changes))
        rest_s = self._began_s + interval_s - self._clock()
        if rest_s > 0:
            self._sleep(rest_s)
