"""Unchanged values: what is saved where half of all writes change nothing, and what it costs."""

from __future__ import annotations

import time

import msgspec

from benchmarks.stand.harness import rig, wait_until
from benchmarks.stand.load import hset_distinct

KEYS = 50_000
WRITES = 4
"""Rounds over all keys; in each, half of the keys change."""


class Saved(msgspec.Struct, frozen=True):
    """What became of the writes of one run, and the engine's CPU in µs a write."""

    writes: int
    delivered: int
    skipped: int
    engine_us: float
    took_s: float


def measure_saved(keys: int = KEYS, *, skips: bool) -> Saved:
    """Write all keys in rounds; each leaves half of them as they are."""
    with rig(more=f'events = ["changes"]\nskip_unchanged = {str(skips).lower()}\n', with_journal=False) as bench:
        first, second = keys // 2, keys - keys // 2
        hset_distinct(bench.redis, first, "cart:same")
        hset_distinct(bench.redis, second, "cart:other")

        def settled() -> int:
            totals = bench.totals()
            return totals["records_delivered"] + totals["skipped_unchanged"]

        wait_until(lambda: settled() >= keys, "all are delivered")
        before, cpu_s, began_s = bench.totals(), bench.cpu_s(), time.monotonic()
        for number in range(1, WRITES + 1):
            done = settled()
            hset_distinct(bench.redis, first, "cart:same")
            hset_distinct(bench.redis, second, "cart:other", more_bytes=number)
            # So that rounds do not become one.
            wait_until(lambda done=done: settled() >= done + keys, "a round is settled")  # type: ignore[misc]
        totals = bench.totals()
        return Saved(
            WRITES * keys,
            totals["records_delivered"] - before["records_delivered"],
            totals["skipped_unchanged"] - before["skipped_unchanged"],
            (bench.cpu_s() - cpu_s) / (WRITES * keys) * 1e6,
            time.monotonic() - began_s,
        )
