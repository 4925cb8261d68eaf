"""hiredis alone: what it takes to parse an event. The yardstick of this machine, at this moment."""

from __future__ import annotations

import time

import hiredis

EVENTS = 200_000
_EVENT = b"*4\r\n$8\r\npmessage\r\n$16\r\n__keyspace@0__:*\r\n$27\r\n__keyspace@0__:cart:%07d\r\n$4\r\nhset\r\n"


def measure_parse() -> float:
    """Return the µs of CPU that an event takes to be parsed."""
    data = b"".join([_EVENT % number for number in range(1_000)])
    reader = hiredis.Reader()
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        for _ in range(EVENTS // 1_000 // 5):
            reader.feed(data)
            while reader.gets() is not False:
                pass
        best = min(best, time.process_time() - started)
    return best / (EVENTS / 5) * 1e6


if __name__ == "__main__":
    print(f"{measure_parse():.3f} µs an event")
