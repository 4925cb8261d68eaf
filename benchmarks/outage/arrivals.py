"""What reached the function, read back: every value in the order of its arrival, judged by what Redis holds."""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.outage.function import HEAD, RECORD, SUFFIX

EXAMPLES_MAX = 10


def arrivals(folder: Path) -> Iterator[tuple[int, memoryview]]:
    """Yield (monotonic ns, [key's number, value's number, …]) of every invocation, in the order of time."""
    notes = [
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for path in sorted(folder.glob(f"*{SUFFIX}"))
        if path.stat().st_size
        for file in [path.open("rb")]
    ]
    heads = sorted(head for index, memory in enumerate(notes) for head in _heads(index, memory))
    for moment_ns, index, start, records in heads:
        yield moment_ns, memoryview(notes[index])[start : start + records * RECORD.size].cast("I")


def _heads(index: int, memory: mmap.mmap) -> Iterator[tuple[int, int, int, int]]:
    at = 0
    while at + HEAD.size <= len(memory):
        moment_ns, records = HEAD.unpack_from(memory, at)
        at += HEAD.size
        yield moment_ns, index, at, records
        at += records * RECORD.size


class Judge:
    """Each key's newest value that arrived; four bytes a key."""

    def __init__(self, keys: int) -> None:
        self._newest = array("I", bytes(4 * keys))
        self.records = 0
        self.twice = 0
        self.out_of_order: list[tuple[int, int, int]] = []
        """(key, value, the newer one that had come before it): the first few."""
        self.out_of_order_count = 0

    def take(self, pairs: Iterable[int]) -> None:
        """Take in one invocation's numbers: key, value, key, value, …; values of a key only grow, from 1."""
        newest = self._newest
        flat = iter(pairs)
        for key, value in zip(flat, flat, strict=True):
            before = newest[key]
            self.records += 1
            if value > before:
                newest[key] = value
            elif value == before:
                self.twice += 1
            else:
                self.out_of_order_count += 1
                if len(self.out_of_order) < EXAMPLES_MAX:
                    self.out_of_order.append((key, value, before))

    def compare(self, truth: Iterable[int]) -> tuple[int, list[tuple[int, int, int]]]:
        """Return how many keys' newest arrival is not what Redis holds, and the first few as (key, Redis's, ours).

        ``truth`` is the value's number of each key, in the order of keys; 0 if there is no such key.
        """
        wrong = [
            (key, wanted, got)
            for key, (wanted, got) in enumerate(zip(truth, self._newest, strict=True))
            if wanted != got
        ]
        return len(wrong), wrong[:EXAMPLES_MAX]
