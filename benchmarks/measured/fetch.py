"""Reads: CPU a key from the read's command to the record's bytes."""

from __future__ import annotations

import time

from benchmarks.stand.load import hset_distinct
from engine.config import RedisSettings, RouteSettings
from engine.delivery.lanes.batch import PayloadBuilder
from engine.delivery.lanes.settle import Frame
from engine.delivery.lanes.work import Cause, Entry
from engine.delivery.reading.fetch import Fetcher
from engine.sandbox.valkey import ValkeyServer

KEYS = 500
ROUNDS = 100


def measure_fetch(more_bytes: int = 0) -> float:
    """Return the µs of CPU that a hash of two fields costs: read, body, record; with so many bytes more in a third."""
    with ValkeyServer() as server:
        hset_distinct(server.port, KEYS, "cart", more_bytes=more_bytes)
        fetcher = Fetcher(RedisSettings(url=server.url), 0, "bench")
        builder = PayloadBuilder(RouteSettings("bench", "f", batch_size=KEYS), 0, 6_000_000)
        cause = Cause("hset", 1_763_890_000_123, Frame(0))
        entries: list[Entry] = [(b"cart:%07d" % number, cause) for number in range(KEYS)]
        keys = [(key, cause.event) for key, _ in entries]
        for _ in range(10):
            builder.build(entries, fetcher.fetch(keys))
        started = time.process_time()
        for _ in range(ROUNDS):
            built = builder.build(entries, fetcher.fetch(keys))
        elapsed = time.process_time() - started
        assert len(built.sent) == KEYS
        return elapsed / ROUNDS / KEYS * 1e6


if __name__ == "__main__":
    print(f"{measure_fetch():.2f} µs a key")
