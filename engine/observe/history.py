"""What an engine did lately: rates, lags and their percentiles over the last minute and hour.  (pure)

It is computed from differences of readings of the board, so the counting processes do nothing for it. A replaced
process continues its row's counts, so differences stay valid.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import msgspec

from engine.ring.counters import GAUGES, Counter, StatusRow
from engine.ring.lags import EMPTY, Histogram, Stage

STEP_MS = 5_000
MINUTE_MS = 60_000
MINUTES = 60
COUNTED = tuple(counter for counter in Counter if counter not in GAUGES)
KEPT = tuple(
    counter.name.lower()
    for counter in (
        Counter.EVENTS_READ,
        Counter.RECORDS_DELIVERED,
        Counter.INVOCATIONS,
        Counter.INVOCATIONS_FAILED,
        Counter.GAPS,
        Counter.KEYS_REPAIRED,
    )
)
"""What is kept of each minute of the last hour, beside the settled lags."""
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
"""Percentile's name → share of the changes that reach a stage at least as soon."""


class Reading(NamedTuple):
    """All counts at one moment (monotonic ms), over all processes."""

    moment_ms: int
    counts: tuple[int, ...]
    lags: tuple[Histogram, ...]


NOTHING = Reading(0, (0,) * len(COUNTED), (EMPTY,) * len(Stage))


def read(rows: Sequence[StatusRow], moment_ms: int) -> Reading:
    """Read all rows now."""
    counts = tuple(sum(row.get(counter) for row in rows) for counter in COUNTED)
    return Reading(moment_ms, counts, tuple(lags_of(rows, stage) for stage in Stage))


def lags_of(rows: Sequence[StatusRow], stage: Stage) -> Histogram:
    """Return the histogram of a stage, over all processes."""
    found = [histogram for row in rows if (histogram := row.lags.read(stage)).count]
    return reduce(add, found, EMPTY) if len(found) != 1 else found[0]


class History:
    """Readings of the last minute, every five seconds, and of the last hour, every minute."""

    def __init__(self, moment_ms: int) -> None:
        """Begin with nothing counted, at this moment."""
        self._last_minute = deque([NOTHING._replace(moment_ms=moment_ms)], MINUTE_MS // STEP_MS + 1)
        self._last_hour = deque([self._last_minute[0]], MINUTES + 1)
        self._points: deque[dict[str, Any]] = deque(maxlen=MINUTES)
        self._minutes = msgspec.Raw(b"[]")

    def describe(self, rows: Sequence[StatusRow], moment_ms: int, now_ms: int) -> dict[str, Any]:
        """Return what the status says about lags and about the recent past; ``now_ms`` is Unix time."""
        reading = read(rows, moment_ms)
        if moment_ms - self._last_minute[-1].moment_ms >= STEP_MS:
            self._last_minute.append(reading)
        if moment_ms - self._last_hour[-1].moment_ms >= MINUTE_MS:
            self._points.append({"at_ms": now_ms, **_point(describe_window(self._last_hour[-1], reading))})
            self._last_hour.append(reading)
            self._minutes = msgspec.Raw(msgspec.json.encode(list(self._points)))
        return {
            "lag": {
                stage.name.lower(): {"sum_ms": lags.sum_ms, "buckets": lags.pairs()}
                for stage, lags in zip(Stage, reading.lags, strict=True)
            },
            "last_minute": describe_window(self._last_minute[0], reading),
            "last_hour": describe_window(self._last_hour[0], reading),
            "minutes": self._minutes,
        }


def describe_window(before: Reading, after: Reading) -> dict[str, Any]:
    """Return what happened between two readings: counts, and percentiles of lags where there were any."""
    counts = {
        counter.name.lower(): late - early
        for counter, late, early in zip(COUNTED, after.counts, before.counts, strict=True)
    }
    lags = {
        stage.name.lower(): percentiles_of(late - early)
        for stage, late, early in zip(Stage, after.lags, before.lags, strict=True)
        if late.count > early.count
    }
    return {"seconds": (after.moment_ms - before.moment_ms) / 1_000, "counts": counts, "lag_ms": lags}


def _point(window: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a minute."""
    counts, lags = window["counts"], window["lag_ms"]
    settled = Stage.SETTLED.name.lower()
    return {
        "seconds": window["seconds"],
        "counts": {name: counts[name] for name in KEPT},
        "lag_ms": {settled: lags[settled]} if settled in lags else {},
    }


def percentiles_of(lags: Histogram) -> Mapping[str, int | None]:
    """Return how many lags there are, and their percentiles in ms: at most 6.25 % too high, never too low."""
    return {"count": lags.count, **dict(zip(SHARES, lags.percentiles(tuple(SHARES.values())), strict=True))}
