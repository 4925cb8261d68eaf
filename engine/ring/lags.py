"""Lag histograms: counts of milliseconds in log-linear buckets, in shared memory and as they are read.  (pure)

Up to 31 ms each millisecond has a bucket of its own; from there on each power of two is cut into 16. So a lag that is
read from a bucket's upper end is never too low, and at most 1/16 (6.25 %) too high. All histograms have the same
buckets: they are merged by adding, and a window of time is the difference of two readings.

The words of a stage are its count, the sum of its milliseconds, and its buckets. Each has one writer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import ceil
from operator import add, sub

LAG_MS_MAX = 2**31 - 1
"""A lag beyond this (24 days) counts as this."""
_EXACT = 32
_STEPS_BITS = 4
_STEPS = 1 << _STEPS_BITS
BUCKETS = _EXACT + (LAG_MS_MAX.bit_length() - _EXACT.bit_length() + 1) * _STEPS
_COUNT, _SUM, _BUCKETS_AT = range(3)
_STAGE_WORDS = _BUCKETS_AT + BUCKETS


class Stage(IntEnum):
    """How far a change has come.

    CAPTURED: how long it may have been on its way from the server to the subscriber: a ping's round trip among the
    events of its feed, counted for each event that it came behind. All others count from the moment at which its
    oldest event was read: to when its value was read (FETCHED), its invocation was sent (INVOKED), each for its first
    attempt alone, and to when its delivery was accepted (SETTLED), however many attempts that took.
    """

    CAPTURED = 0
    FETCHED = 1
    INVOKED = 2
    SETTLED = 3


LAG_WORDS = len(Stage) * _STAGE_WORDS
"""The size of one process's histograms."""


def bucket_of(lag_ms: int) -> int:
    """Return the bucket of this lag, 0 to `LAG_MS_MAX`."""
    if lag_ms < _EXACT:
        return lag_ms
    shift = lag_ms.bit_length() - _EXACT.bit_length() + 1
    return (shift << _STEPS_BITS) + (lag_ms >> shift)


_OFTEN_MS = 4_096
_BUCKET_OF = [bucket_of(lag_ms) for lag_ms in range(_OFTEN_MS)]


def upper_ms(bucket: int) -> int:
    """Return the highest lag that falls into this bucket."""
    if bucket < _EXACT:
        return bucket
    shift = (bucket >> _STEPS_BITS) - 1
    return ((bucket & _STEPS - 1) + _STEPS + 1 << shift) - 1


@dataclass(frozen=True, slots=True)
class Histogram:
    """Lags as they were read, or the difference of two such readings."""

    count: int
    sum_ms: int
    buckets: Sequence[int]

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(
            self.count + other.count, self.sum_ms + other.sum_ms, list(map(add, self.buckets, other.buckets))
        )

    def __sub__(self, earlier: Histogram) -> Histogram:
        return Histogram(
            self.count - earlier.count, self.sum_ms - earlier.sum_ms, list(map(sub, self.buckets, earlier.buckets))
        )

    def percentiles(self, shares: Sequence[float]) -> list[int | None]:
        """Return, for each share of all lags (0.99), the least number of ms that this share does not exceed.

        ``shares`` ascend. None if nothing was counted.
        """
        total = sum(self.buckets)
        found: list[int | None] = []
        seen, bucket = 0, -1
        for share in shares:
            # A billionth less: 0.9 of 10 is 9, whatever floating point says.
            wanted = max(1, ceil(share * total - 1e-9)) if total else 0
            while seen < wanted:
                bucket += 1
                seen += self.buckets[bucket]
            found.append(upper_ms(bucket) if total else None)
        return found

    def pairs(self) -> list[tuple[int, int]]:
        """Return (highest lag in ms, count) of each bucket that holds something."""
        return [(upper_ms(bucket), count) for bucket, count in enumerate(self.buckets) if count]

    @classmethod
    def from_pairs(cls, sum_ms: int, pairs: Iterable[Sequence[int]]) -> Histogram:
        """Return the histogram that `pairs` were read from."""
        buckets = [0] * BUCKETS
        for lag_ms, count in pairs:
            buckets[bucket_of(lag_ms)] += count
        return cls(sum(buckets), sum_ms, buckets)


EMPTY = Histogram(0, 0, (0,) * BUCKETS)


class LagRow:
    """The histograms of one process, a word a bucket; only its one writer may record."""

    __slots__ = ("_words",)

    def __init__(self, words: memoryview) -> None:
        assert len(words) == LAG_WORDS
        self._words = words

    def record(self, stage: Stage, lag_ms: int, count: int = 1) -> None:
        """Count this many changes with this lag; one that a clock makes negative is 0."""
        words, at, lag_ms = self._words, stage * _STAGE_WORDS, max(0, min(lag_ms, LAG_MS_MAX))
        words[at + _BUCKETS_AT + bucket_of(lag_ms)] += count
        words[at + _SUM] += lag_ms * count
        words[at + _COUNT] += count

    def record_all(self, stage: Stage, at_ms: int, moments: Mapping[int, int]) -> None:
        """Count, for each moment at which changes were captured, how many have reached this stage at ``at_ms``.

        Every batch comes here three times, so it is `record` for many without a call for each.
        """
        words, at = self._words, stage * _STAGE_WORDS
        first, all_of_them, sum_ms = at + _BUCKETS_AT, 0, 0
        for moment_ms, count in moments.items():
            lag_ms = at_ms - moment_ms
            if 0 <= lag_ms < _OFTEN_MS:
                words[first + _BUCKET_OF[lag_ms]] += count
            else:
                lag_ms = max(0, min(lag_ms, LAG_MS_MAX))
                words[first + bucket_of(lag_ms)] += count
            all_of_them += count
            sum_ms += lag_ms * count
        words[at + _SUM] += sum_ms
        words[at + _COUNT] += all_of_them

    def read(self, stage: Stage) -> Histogram:
        """Return a stage's histogram as it is now."""
        at = stage * _STAGE_WORDS
        words = self._words[at : at + _STAGE_WORDS].tolist() if self._words[at] else None
        return Histogram(words[_COUNT], words[_SUM], words[_BUCKETS_AT:]) if words else EMPTY
