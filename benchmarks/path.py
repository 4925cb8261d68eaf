"""The whole path at full load: CPU an event, and throughput."""

from __future__ import annotations

import time
from dataclasses import dataclass

import orjson

from benchmarks.drive.commands import PREFIX
from benchmarks.harness import rig
from benchmarks.load import hset_distinct

WARM_UP = 2_000


@dataclass(frozen=True)
class Saturation:
    """What one run at full load showed."""

    cpu_us: float
    events_per_s: float
    batch_mean: float


def measure_saturation(events: int, batch_size: int = 1_000, shards: int = 1, invokers: int = 1) -> Saturation:
    """Set distinct keys as fast as the server takes them; watch until the last is accepted."""
    with rig(batch_size=batch_size, shards=shards, invokers=invokers) as bench:
        hset_distinct(bench.redis, WARM_UP, prefix=f"{PREFIX}warm")
        bench.wait("records_delivered", WARM_UP)
        before, cpu_before = bench.totals(), bench.cpu_s()
        started_ns = time.time_ns()
        hset_distinct(bench.redis, events)
        bench.wait("records_delivered", WARM_UP + events)
        cpu_s = bench.cpu_s() - cpu_before
        batches = bench.totals()["invocations"] - before["invocations"]
        bench.stop()
        accepted_ns = max(orjson.loads(line)["ended_ns"] for line in bench.journal.read_bytes().splitlines())
    elapsed_s = (accepted_ns - started_ns) / 1e9
    return Saturation(cpu_s / events * 1e6, events / elapsed_s, events / batches)
