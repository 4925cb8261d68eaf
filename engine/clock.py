"""Time, in the units that the engine uses; handed to pure code as an argument."""

from __future__ import annotations

import time
from collections.abc import Callable

FEW = 8
"""So many changes are worth a turn: where more come in an interval, turns may follow each other sooner."""
SOONER = 3
"""At most so many times as soon."""


def now_ms() -> int:
    """Return Unix time in milliseconds: for records and people."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Return a clock that never jumps, in milliseconds: for deadlines and ages in one host."""
    return time.monotonic_ns() // 1_000_000


class Pace:
    """Keeps a loop's turns an interval apart while changes keep coming, so that they share a turn.

    A change that comes alone finds the interval over, and waits for nothing. Where many come, waiting gains less: the
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
        """Begin a turn: what has come is taken up now."""
        if self._interval_s:
            moment_s = self._clock()
            self._passed_s, self._began_s = moment_s - self._began_s, moment_s

    def keep(self, changes: int) -> None:
        """Sleep for what is left of the interval, after a turn that took up so many changes."""
        interval_s = self._interval_s
        if not interval_s:
            return
        if changes > FEW:
            interval_s = min(interval_s, max(interval_s / SOONER, self._passed_s * FEW / changes))
        rest_s = self._began_s + interval_s - self._clock()
        if rest_s > 0:
            self._sleep(rest_s)
