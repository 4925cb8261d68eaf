"""An event parsed by hiredis and put into a dictionary: the yardstick of this machine, at this moment.

It is what a capture could not do without, so a cost told in yardsticks moves little from machine to machine; and it is
taken just before and after what it is beside, because a machine that is shared changes its speed within seconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import hiredis

EVENTS, ROUNDS = 40_000, 5
_EVENT = b"*4\r\n$8\r\npmessage\r\n$16\r\n__keyspace@0__:*\r\n$27\r\n__keyspace@0__:cart:%07d\r\n$4\r\nhset\r\n"
_KEY_AT = len(b"__keyspace@0__:")


def measure_parse() -> float:
    """Return the µs of CPU that an event takes: the median of some rounds."""
    chunks = [b"".join([_EVENT % number for number in range(at, at + 1_000)]) for at in range(0, EVENTS, 1_000)]
    return statistics.median(_round(chunks) for _ in range(ROUNDS))


def _round(chunks: list[bytes]) -> float:
    reader, keys = hiredis.Reader(), {}
    started = time.process_time()
    for chunk in chunks:
        reader.feed(chunk)
        while (event := reader.gets()) is not False:
            keys[event[2][_KEY_AT:]] = event[3]
    return (time.process_time() - started) / len(keys) * 1e6


def beside_yardstick(measure: Callable[[], Any], yardsticks: list[float]) -> Any:
    """Return what is measured; append the yardstick of the moments before and after it."""
    before = measure_parse()
    found = measure()
    yardsticks.append((before + measure_parse()) / 2)
    return found


if __name__ == "__main__":
    print(f"{measure_parse():.3f} µs an event")
