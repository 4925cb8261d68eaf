"""The whole path at full load: CPU an event, and throughput."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import orjson

from benchmarks.drive.commands import PREFIX
from benchmarks.stand.harness import Rig, rig
from benchmarks.stand.load import hset_distinct

WARM_UP = 2_000
JOURNAL_S = 0.1
"""After this time the runtime's journal holds what has ended."""


@dataclass(frozen=True)
class FullLoad:
    """What one run at full load showed."""

    cpu_us: float
    events_per_s: float
    batch_mean: float


@contextmanager
def full_load(batch_size: int = 1_000, shards: int = 1, invokers: int = 1) -> Iterator[Callable[[int], FullLoad]]:
    """Run the path in this shape until the block ends; give what measures it over so many events, again and again."""
    with rig(batch_size=batch_size, shards=shards, invokers=invokers) as bench:
        hset_distinct(bench.redis, WARM_UP, prefix=f"{PREFIX}warm")
        bench.wait("records_delivered", WARM_UP)
        yield lambda events: _measure(bench, events)


def _measure(bench: Rig, events: int) -> FullLoad:
    """Set distinct keys as fast as the server takes them; watch until the last is accepted."""
    before, cpu_before, journal_bytes = bench.totals(), bench.cpu_s(), bench.journal.stat().st_size
    started_ns = time.time_ns()
    hset_distinct(bench.redis, events)
    bench.wait("records_delivered", before["records_delivered"] + events)
    cpu_s = bench.cpu_s() - cpu_before
    batches = bench.totals()["invocations"] - before["invocations"]
    time.sleep(JOURNAL_S)
    with bench.journal.open("rb") as file:
        file.seek(journal_bytes)
        accepted_ns = max(orjson.loads(line)["ended_ns"] for line in file)
    elapsed_s = (accepted_ns - started_ns) / 1e9
    return FullLoad(cpu_s / events * 1e6, events / elapsed_s, events / batches)
