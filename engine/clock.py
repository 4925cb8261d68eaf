"""Time, in the units that the engine uses; handed to pure code as an argument."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Return Unix time in milliseconds: for records and people."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Return a clock that never jumps, in milliseconds: for deadlines and ages in one host."""
    return time.monotonic_ns() // 1_000_000
