"""How long a scan will take, from readings of how far it is.  (pure)"""

from __future__ import annotations

from collections import deque
from typing import Any

SPAN_MS = 60_000
EVERY_MS = 2_000
"""Readings are at least so far apart: 31 of them are kept."""


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
