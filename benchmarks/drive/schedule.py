"""When each command is due, in ns from the beginning: fixed before the run, so that no stall can move it.  (pure)"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

Offsets = npt.NDArray[np.int64]

NS = 1_000_000_000
TRACE_LINES_MAX = 50_000_000
RATE_PER_S_MAX = 10_000_000


class Arrivals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How commands arrive.

    ``rate_per_s`` is the mean of ``constant`` and ``poisson``, and where a ``ramp`` ends, which begins at
    ``from_rate_per_s``. ``bursts`` are ``burst_s`` at ``burst_rate_per_s``, every ``every_s``, with ``rate_per_s`` in
    between. ``trace`` takes the offsets (seconds, a line each, growing) from ``trace_file``.
    """

    kind: Literal["constant", "poisson", "bursts", "ramp", "trace"] = "constant"
    rate_per_s: float = 1_000.0
    from_rate_per_s: float = 0.0
    burst_rate_per_s: float = 0.0
    burst_s: float = 1.0
    every_s: float = 5.0
    trace_file: str = ""


class BadArrivals(ValueError):
    """Arrivals that can't be; the message says why."""


def offsets_of(arrivals: Arrivals, seconds: float, rng: np.random.Generator) -> Offsets:
    """Return when each command of so many seconds is due; raise `BadArrivals`."""
    _check(arrivals)
    match arrivals.kind:
        case "constant":
            return _at_rates([(seconds, arrivals.rate_per_s, arrivals.rate_per_s)])
        case "poisson":
            count = rng.poisson(arrivals.rate_per_s * seconds)
            return np.sort((rng.random(count) * seconds * NS).astype(np.int64))
        case "ramp":
            return _at_rates([(seconds, arrivals.from_rate_per_s, arrivals.rate_per_s)])
        case "bursts":
            return _at_rates(_bursts(arrivals, seconds))
        case "trace":
            return read_trace(arrivals.trace_file, seconds)


def _check(arrivals: Arrivals) -> None:
    if arrivals.kind != "trace" and not 0 < arrivals.rate_per_s <= RATE_PER_S_MAX:
        raise BadArrivals(f"rate_per_s: more than 0 and at most {RATE_PER_S_MAX:,} is allowed")
    if arrivals.kind == "bursts" and not 0 < arrivals.burst_s < arrivals.every_s:
        raise BadArrivals("burst_s: more than 0 and less than every_s is allowed")
    if arrivals.kind == "bursts" and arrivals.burst_rate_per_s <= arrivals.rate_per_s:
        raise BadArrivals("burst_rate_per_s: more than rate_per_s is allowed")
    if arrivals.kind == "bursts" and arrivals.burst_rate_per_s > RATE_PER_S_MAX:
        raise BadArrivals(f"burst_rate_per_s: at most {RATE_PER_S_MAX:,} is allowed")
    if arrivals.kind == "ramp" and not 0 <= arrivals.from_rate_per_s <= RATE_PER_S_MAX:
        raise BadArrivals(f"from_rate_per_s: from 0 to {RATE_PER_S_MAX:,} is allowed")


def _bursts(arrivals: Arrivals, seconds: float) -> list[tuple[float, float, float]]:
    pieces: list[tuple[float, float, float]] = []
    at_s, quiet_s = 0.0, arrivals.every_s - arrivals.burst_s
    while at_s < seconds:
        pieces.append((min(quiet_s, seconds - at_s), arrivals.rate_per_s, arrivals.rate_per_s))
        at_s += quiet_s
        if at_s < seconds:
            burst_s = min(arrivals.burst_s, seconds - at_s)
            pieces.append((burst_s, arrivals.burst_rate_per_s, arrivals.burst_rate_per_s))
            at_s += burst_s
    return pieces


def _at_rates(pieces: list[tuple[float, float, float]]) -> Offsets:
    """Return the moments at which the integral of the rate passes a whole number; pieces are (s, from, to)."""
    found, begins_s, carried = [], 0.0, 0.0
    for seconds, first, last in pieces:
        total = carried + seconds * (first + last) / 2
        wanted = np.arange(np.ceil(carried), np.ceil(total)) - carried
        slope = (last - first) / seconds
        # Of first·t + slope·t²/2 = wanted, in the form that holds for a slope of 0.
        moments = 2 * wanted / (first + np.sqrt(np.maximum(first * first + 2 * slope * wanted, 0)) + 1e-300)
        found.append(begins_s + moments)
        begins_s, carried = begins_s + seconds, total
    offsets: Offsets = np.rint(np.concatenate(found) * NS).astype(np.int64)
    return offsets


def read_trace(path: str, seconds: float) -> Offsets:
    """Return a recorded trace's offsets up to so many seconds; raise `BadArrivals`."""
    try:
        with Path(path).open() as file:
            lines = itertools.islice(file, TRACE_LINES_MAX)
            values = np.array([float(line) for line in lines if line.strip()])
    except OSError as error:
        raise BadArrivals(f"trace_file: {path!r} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise BadArrivals(f"trace_file: {path!r} holds no number: {error}") from error
    if not len(values) or values[0] < 0 or np.any(np.diff(values) < 0):
        raise BadArrivals(f"trace_file: {path!r} wants seconds from the beginning, a line each, that never go back")
    return (values[values < seconds] * NS).astype(np.int64)
