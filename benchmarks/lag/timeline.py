"""Lag over the time of a run, and how long it takes to be worked off after a burst or an outage.  (pure)"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.drive.schedule import NS, Arrivals

Times = npt.NDArray[np.int64]
MOMENT_S_MIN = 0.1
MOMENTS_MAX = 400


class Moment(msgspec.Struct, frozen=True):
    """The changes that were due from ``at_s`` on, until the next moment; ``done_s`` is when all of them had arrived."""

    at_s: float
    changes: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    done_s: float


class Window(msgspec.Struct, frozen=True):
    """A part of a run that something disturbs: from its beginning to the next one's, and when the disturbance ends."""

    from_s: float
    ends_s: float
    until_s: float


def timeline(due_ns: Times, lags_ns: Times, seconds: float) -> list[Moment]:
    """Return the lag moment by moment; ``due_ns`` counts from the beginning, and grows."""
    width_s = max(MOMENT_S_MIN, seconds / MOMENTS_MAX)
    edges = np.arange(0, seconds + width_s, width_s)
    places = np.searchsorted(due_ns, (edges * NS).astype(np.int64))
    found = []
    for at_s, first, last in zip(edges, places, places[1:], strict=False):
        if first == last:
            continue
        lags = lags_ns[first:last]
        p50, p99, highest = (float(value) / 1e6 for value in np.percentile(lags, (50, 99, 100)))
        done_s = float((due_ns[first:last] + lags).max()) / NS
        told = (round(value, 3) for value in (p50, p99, highest, done_s))
        found.append(Moment(round(float(at_s), 3), int(last - first), *told))
    return found


def bursts_of(arrivals: Arrivals, seconds: float) -> Iterator[Window]:
    """Return where the bursts are; none where arrivals have none."""
    if arrivals.kind != "bursts":
        return
    from_s = arrivals.every_s - arrivals.burst_s
    while from_s < seconds:
        yield Window(from_s, min(from_s + arrivals.burst_s, seconds), from_s + arrivals.every_s)
        from_s += arrivals.every_s


def left_at_s(moments: Sequence[Moment], limit_ms: float) -> float | None:
    """Return when the p99 of the lag first left the limit, None if it never did."""
    return next((one.at_s for one in moments if one.p99_ms > limit_ms), None)


def recoveries(moments: Sequence[Moment], windows: Sequence[Window], limit_ms: float) -> list[float]:
    """Return for each window how many seconds after its disturbance the last change arrived that was over the limit.

    0 if none was, or all of them had arrived before the disturbance ended.
    """
    found = []
    for window in windows:
        inside = [one for one in moments if window.from_s <= one.at_s < window.until_s and one.max_ms > limit_ms]
        last_s = max((one.done_s for one in inside), default=0.0)
        found.append(round(max(0.0, last_s - window.ends_s), 3))
    return found
