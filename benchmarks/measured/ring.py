"""Rings: events a second from encode to decode, between two processes."""

from __future__ import annotations

import os
import select
import time

from engine.model import Run
from engine.ring.codec import decode_runs, encode_runs
from engine.ring.ring import RingSet
from engine.ring.wake import Wake

RING_BYTES = 8 << 20


def measure_ring(seconds: float = 2.0, events_per_frame: int = 256) -> float:
    """Return the events a second that a reader process decodes while a writer process encodes."""
    rings, wake = RingSet(1, 1, RING_BYTES), Wake()
    pid = os.fork()
    if not pid:
        try:
            _write(rings, wake, seconds, events_per_frame)
        finally:
            os._exit(0)
    reader = rings.ring(0, 0).reader()
    events, started, ended = 0, 0.0, 0.0
    while True:
        if not select.select([wake], [], [], 1.0)[0]:
            break
        wake.clear()
        while (frame := reader.read()) is not None:
            started = started or time.perf_counter()
            events += sum(len(run.keys) for run in decode_runs(frame[0]))
            reader.release(frame[1])
        ended = time.perf_counter()
    os.waitpid(pid, 0)
    wake.close()
    return events / (ended - started)


def _write(rings: RingSet, wake: Wake, seconds: float, events_per_frame: int) -> None:
    writer = rings.ring(0, 0).writer()
    run = Run("hset", 1, 1_763_890_000_123, [b"cart:%d" % number for number in range(events_per_frame)])
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        if writer.offer(encode_runs([run])):
            wake.signal()
        else:
            time.sleep(0.001)


if __name__ == "__main__":
    print(f"{measure_ring():,.0f} events/s with 256 events a frame, {measure_ring(2.0, 16):,.0f} with 16")
