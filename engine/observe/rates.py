"""What was counted over the last minute, and how long a scan will take, from readings of the totals.  (pure)"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

SPAN_MS = 60_000
EVERY_MS = 2_000
"""Readings are at least so far apart: 31 of them are kept."""


class Rates:
    """Readings of counters that only grow; times are monotonic milliseconds."""

    def __init__(self, counters: frozenset[str]) -> None:
        self._counters = counters
        self._readings: deque[tuple[int, Mapping[str, int]]] = deque()

    def take_in(self, totals: Mapping[str, int], moment_ms: int) -> dict[str, Any]:
        """Return what was counted since about a minute ago, or since the first reading: seconds, counts."""
        now = {name: totals.get(name, 0) for name in self._counters}
        readings = self._readings
        while len(readings) > 1 and readings[1][0] <= moment_ms - SPAN_MS:
            readings.popleft()
        if not readings or moment_ms - readings[-1][0] >= EVERY_MS:
            readings.append((moment_ms, now))
        since_ms, then = readings[0]
        counts = {name: max(0, now[name] - then[name]) for name in sorted(self._counters)}
        return {"seconds": round((moment_ms - since_ms) / 1_000, 1), "counts": counts}


class ScanProgress:
    """How far the scans under way are, all together, and how long they will still take."""

    def __init__(self) -> None:
        self._keys = 0
        self._readings: deque[tuple[int, int]] = deque()

    def take_in(self, scanned: int, keys: int, moment_ms: int) -> dict[str, Any]:
        """Return keys, those that were scanned, and the seconds left (None while that is not known)."""
        readings = self._readings
        if keys != self._keys or (readings and scanned < readings[-1][1]):
            # Others have begun or ended: what was measured is of another scan.
            readings.clear()
        self._keys = keys
        while len(readings) > 1 and readings[1][0] <= moment_ms - SPAN_MS:
            readings.popleft()
        if keys and (not readings or moment_ms - readings[-1][0] >= EVERY_MS):
            readings.append((moment_ms, scanned))
        left_s = None
        if keys and readings:
            since_ms, then = readings[0]
            if scanned > then and moment_ms > since_ms:
                left_s = round(max(0, keys - scanned) * (moment_ms - since_ms) / (scanned - then) / 1_000)
        return {"keys": keys, "scanned": min(scanned, keys), "left_s": left_s}
