"""Hosts for an amount of work: how many, of which kind, and how many shards and invokers each runs.  (pure)

Hosts share the keys by slices and nothing else, so that contention (`benchmarks.capacity.usl`) is among the processes
of one host. A host has a core for each of its processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.capacity.calibration import Calibration
from benchmarks.capacity.prices import Host
from benchmarks.capacity.usl import Usl

BUSY_MAX = 0.6
"""Of a process's core, and of a host's network: the rest is for bursts, repairs and what the host does besides."""
MEMORY_FULL = 0.8
"""Of a host's memory."""
SLOTS_A_INVOKER = 10
"""``parallelization_factor`` at most."""
SHARDS_MAX, INVOKERS_MAX, SLICES_MAX = 64, 64, 32
RING_BYTES = 8_388_608
LANE_KEYS_MAX, DIRTY_KEYS_MAX = 200_000, 500_000
KEY_NAME_BYTES = 32
PROCESS_BYTES = 40 * 2**20


class Work(NamedTuple):
    """What there is to do: cores of the calibrated machine, were one process to do it; GBit/s; keys that may wait."""

    capture_cores: float
    delivery_cores: float
    concurrency: int
    network_gbit_s: float
    keys: float


class Fleet(NamedTuple):
    """So many hosts of one kind; shards, invokers and memory are of each."""

    hosts: int
    host: Host
    shards: int
    invokers: int
    memory_gib: float

    @property
    def hour(self) -> float:
        """Return an hour's price."""
        return self.hosts * self.host.hour


def effective(law: Usl | None, count: int) -> float:
    """Return how many processes that share nothing do as much as ``count`` of one host."""
    return count if law is None else count * law.efficiency(count)


def cheapest(work: Work, known: Calibration, hosts: Sequence[Host]) -> Fleet | None:
    """Return the cheapest fleet that does the work; None if there is none.

    Of those that cost the same it is the one whose patterns cost Redis least, then the one of the fewest hosts.
    """
    found = [fleet for host in hosts if (fleet := _of(host, work, known)) is not None]
    return min(found, key=lambda fleet: (round(fleet.hour, 6), fleet.hosts * fleet.shards, fleet.hosts), default=None)


def _of(host: Host, work: Work, known: Calibration) -> Fleet | None:
    """Return the fewest hosts of this kind; None where as many as there are slices do not do."""
    for count in range(1, SLICES_MAX + 1):
        core = count * host.relative_core
        shards = _processes(work.capture_cores / core, known.shards_usl, min(host.cores, SHARDS_MAX))
        invokers = _processes(work.delivery_cores / core, known.invokers_usl, min(host.cores, INVOKERS_MAX))
        if shards is None or invokers is None:
            continue
        invokers = max(invokers, math.ceil(work.concurrency / count / SLOTS_A_INVOKER))
        memory_gib = _memory_gib(work.keys / count, known, shards, invokers)
        if (
            shards + invokers <= host.cores
            and memory_gib <= MEMORY_FULL * host.memory_gib
            and work.network_gbit_s <= count * BUSY_MAX * host.network_gbit_s
        ):
            return Fleet(count, host, shards, invokers, memory_gib)
    return None


def _processes(cores: float, law: Usl | None, most: int) -> int | None:
    """Return how many processes of a host do this much with none over `BUSY_MAX`; None where more make it slower."""
    for count in range(max(1, math.ceil(cores / BUSY_MAX)), most + 1):
        if effective(law, count) * BUSY_MAX >= cores:
            return count
    return None


def _memory_gib(keys: float, known: Calibration, shards: int, invokers: int) -> float:
    """Return a host's memory in an outage: rings, keys that wait up to the settings' bounds, and the processes."""
    waiting = min(keys, LANE_KEYS_MAX * invokers) + min(keys, DIRTY_KEYS_MAX * shards)
    processes = (1 + shards + invokers) * PROCESS_BYTES
    waiting_bytes = waiting * (known.waiting_key_bytes + KEY_NAME_BYTES)
    return (shards * invokers * RING_BYTES + waiting_bytes + processes) / 2**30
