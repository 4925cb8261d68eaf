"""HDR histograms of times: three digits, from a microsecond to an hour, and they add up over processes."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram

LOW_US, HIGH_US, DIGITS = 1, 3_600_000_000, 3


class Percentiles(msgspec.Struct, frozen=True):
    """What is told of many times, in ms."""

    count: int = 0
    p50_ms: float = 0.0
    p90_ms: float = 0.0
    p99_ms: float = 0.0
    p999_ms: float = 0.0
    max_ms: float = 0.0


class Histogram:
    """Counts of times. What is below a microsecond counts as one, what is above an hour as one."""

    def __init__(self) -> None:
        self._counts = HdrHistogram(LOW_US, HIGH_US, DIGITS)

    def add_ns(self, times_ns: npt.NDArray[np.int64]) -> None:
        """Take in many times at once."""
        # Recorded by value: the library takes some µs a call, and many times are alike.
        times_us, counts = np.unique(np.clip(times_ns // 1_000, LOW_US, HIGH_US), return_counts=True)
        for time_us, count in zip(times_us.tolist(), counts.tolist(), strict=True):
            self._counts.record_value(time_us, count)

    @classmethod
    def of(cls, times_ns: npt.NDArray[np.int64]) -> Histogram:
        """Return the histogram of these times."""
        histogram = cls()
        histogram.add_ns(times_ns)
        return histogram

    def encoded(self) -> str:
        """Return the histogram in the format that all HDR libraries read, as text."""
        data: bytes = self._counts.encode()
        return data.decode()

    def percentiles(self) -> Percentiles:
        """Return what is told of it."""
        if not self._counts.get_total_count():
            return Percentiles()
        wanted = (50.0, 90.0, 99.0, 99.9)
        found = self._counts.get_percentile_to_value_dict(list(wanted))
        p50, p90, p99, p999 = (round(found[one] / 1_000, 3) for one in wanted)
        highest = round(self._counts.get_max_value() / 1_000, 3)
        return Percentiles(self._counts.get_total_count(), p50, p90, p99, p999, highest)


def merged(parts: Iterable[str]) -> Histogram:
    """Return the histogram of everything that these encoded ones hold."""
    whole = Histogram()
    for part in parts:
        whole._counts.decode_and_add(part.encode())
    return whole


def percentiles_of(times_ns: npt.NDArray[np.int64]) -> Percentiles:
    """Return what is told of these times."""
    return Histogram.of(times_ns).percentiles()
