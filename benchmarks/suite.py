"""Everything that ``make bench`` measures, part by part."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from benchmarks.capture import measure_capture
from benchmarks.drive.keys import Keyspace
from benchmarks.drive.plan import Load
from benchmarks.drive.schedule import Arrivals
from benchmarks.fetch import measure_fetch
from benchmarks.functions import FunctionRun, measure_cold_start, measure_dynamodb
from benchmarks.guest import HsetRatio, WaitingMemory, measure_hset_ratio, measure_waiting_memory
from benchmarks.others import RedisPy, measure_original, measure_redis_py
from benchmarks.parse import measure_parse
from benchmarks.path import Saturation as FullLoad
from benchmarks.path import measure_saturation
from benchmarks.ring import measure_ring
from benchmarks.saturation import Saturation, Search, measure_saturation_rate
from benchmarks.sending import Sending, measure_sending
from benchmarks.server import ServerCosts, measure_server
from benchmarks.trial import Shape, Trial, ground
from benchmarks.watch import Sample, Watch

MORE_BYTES = 8_192
SMALL_BATCH = 50
LIGHT_PER_S, TABLE_PER_S, HSET_PER_S = 1_000.0, 500.0, 2_000.0
KEYSPACE = Keyspace(100_000)
SCALED = (2, 4)
"""Shards, and invokers, beside one of each: the least that tell a law."""
MEMORY_S = 1.0


class Effort(msgspec.Struct, frozen=True):
    """How often and how long each part is measured."""

    runs: int = 3
    seconds: float = 6.0
    short_s: float = 2.0
    events: int = 200_000
    search: Search = Search()
    original_s: float = 4.0
    function_batches: int = 8
    small_batches: int = 300
    cold_starts: int = 7
    pairs: int = 3
    waiting_keys: int = 600_000


QUICK = Effort(
    runs=1,
    seconds=2.0,
    short_s=0.5,
    events=40_000,
    search=Search(from_rate_per_s=40_000.0, seconds=1.0, halvings=1, tries=1),
    original_s=1.0,
    function_batches=2,
    small_batches=30,
    cold_starts=3,
    pairs=1,
    waiting_keys=350_000,
)

Repeat = Callable[[str, int, Callable[[], Any]], list[Any]]
"""Measure a part so often, under this name, and return what each time showed."""


@dataclass
class Measured:
    """What was measured, before it is put into figures."""

    rings: list[float] = field(default_factory=list)
    parses: list[float] = field(default_factory=list)
    captures: list[dict[str, float]] = field(default_factory=list)
    fetches: list[float] = field(default_factory=list)
    large_fetches: list[float] = field(default_factory=list)
    server: list[ServerCosts] = field(default_factory=list)
    full: list[FullLoad] = field(default_factory=list)
    small: list[FullLoad] = field(default_factory=list)
    by_shards: dict[int, list[FullLoad]] = field(default_factory=dict)
    by_invokers: dict[int, list[FullLoad]] = field(default_factory=dict)
    sendings: list[Sending] = field(default_factory=list)
    memory: list[Sample] = field(default_factory=list)
    saturation: Saturation = field(default_factory=lambda: Saturation(0, "", []))
    halves: list[Trial] = field(default_factory=list)
    light: list[Trial] = field(default_factory=list)
    table: list[Trial] = field(default_factory=list)
    hset: HsetRatio = field(default_factory=lambda: HsetRatio([], []))
    waiting: list[WaitingMemory] = field(default_factory=list)
    originals: list[float] = field(default_factory=list)
    redis_py: list[RedisPy] = field(default_factory=list)
    puts: list[FunctionRun] = field(default_factory=list)
    upserts: list[FunctionRun] = field(default_factory=list)
    small_puts: list[FunctionRun] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)


def parts(effort: Effort) -> int:
    """Return how many measurements there are, for a bar."""
    return 3 + effort.runs * 17 + effort.pairs


def measure_all(effort: Effort, seed: int, repeat: Repeat) -> Measured:
    """Measure everything, one part after the other, on an otherwise idle machine."""
    runs, found = effort.runs, Measured()
    found.parses = repeat("hiredis alone", runs, measure_parse)
    found.sendings = repeat("the load's sender", runs, lambda: measure_sending(effort.short_s))
    found.rings = repeat("rings", runs, lambda: measure_ring(effort.short_s))
    found.captures = repeat("capture", runs, lambda: measure_capture(effort.short_s))
    found.fetches = repeat("reads", runs, measure_fetch)
    found.large_fetches = repeat("reads of large values", runs, lambda: measure_fetch(MORE_BYTES))
    found.server = repeat("the server alone", 1, lambda: measure_server(effort.short_s))
    # In turn, so that each count has seen the same machine.
    rounds = repeat("full load, 1 to 4 shards and invokers", runs, lambda: _scaled(effort))
    found.full = [one[1, 1] for one in rounds]
    found.by_shards = {count: [one[count, 1] for one in rounds] for count in SCALED}
    found.by_invokers = {count: [one[1, count] for one in rounds] for count in SCALED}
    found.small = repeat("full load, small batches", runs, lambda: measure_saturation(effort.events, SMALL_BATCH))
    _measure_lags(effort, seed, repeat, found)
    found.hset = _hset(effort, seed, repeat)
    found.waiting = repeat("keys that wait", 1, lambda: measure_waiting_memory(effort.waiting_keys))
    found.originals = repeat("the original's loop", runs, lambda: measure_original(effort.original_s))
    found.redis_py = repeat("redis-py in a loop", runs, lambda: measure_redis_py(effort.short_s))
    _measure_functions(effort, repeat, found)
    return found


def _scaled(effort: Effort) -> dict[tuple[int, int], FullLoad]:
    shapes = [(1, 1), *((count, 1) for count in SCALED), *((1, count) for count in SCALED)]
    return {
        (shards, invokers): measure_saturation(effort.events, shards=shards, invokers=invokers)
        for shards, invokers in shapes
    }


def _measure_lags(effort: Effort, seed: int, repeat: Repeat, found: Measured) -> None:
    with ground(Shape()) as place:

        def at(rate_per_s: float) -> Trial:
            place.forget()
            arrivals = Arrivals("poisson", rate_per_s=rate_per_s)
            return place.run(Load(arrivals, KEYSPACE, seconds=effort.seconds, seed=seed))

        found.light = repeat("lag at 1,000 changes/s", effort.runs, lambda: at(LIGHT_PER_S))
        place.forget()
        watch = Watch(place.rig, MEMORY_S)
        (found.saturation,) = repeat(
            "the search for saturation",
            1,
            lambda: measure_saturation_rate(place, KEYSPACE, effort.search, seed, watch),
        )
        found.memory = watch.samples
        half = max(found.saturation.rate_per_s, LIGHT_PER_S) / 2
        found.halves = repeat("lag at half of it", effort.runs, lambda: at(half))
    with ground(Shape(sink="dynamodb", batch_size=100)) as place:
        arrivals = Arrivals("poisson", rate_per_s=TABLE_PER_S)
        load = Load(arrivals, Keyspace(20_000), seconds=effort.seconds, seed=seed)
        found.table = repeat("lag to DynamoDB", effort.runs, lambda: place.run(load))


def _hset(effort: Effort, seed: int, repeat: Repeat) -> HsetRatio:
    pairs = iter(range(effort.pairs))
    found = repeat(
        "the application's HSET",
        effort.pairs,
        lambda: measure_hset_ratio(1, effort.seconds / 2, HSET_PER_S, seed + next(pairs)),
    )
    return HsetRatio([one.with_ms[0] for one in found], [one.without_ms[0] for one in found])


def _measure_functions(effort: Effort, repeat: Repeat, found: Measured) -> None:
    runs = effort.runs
    found.puts = repeat("the DynamoDB function", runs, lambda: measure_dynamodb("batch", effort.function_batches))
    found.upserts = repeat("the same, versioned", runs, lambda: measure_dynamodb("versioned", effort.function_batches))
    size = max(1, round(statistics.median(one.records_per_invocation for one in found.light)))
    found.small_puts = repeat(
        f"the same, {size} records a batch", runs, lambda: measure_dynamodb("batch", effort.small_batches, size)
    )
    found.starts = repeat("its cold start", runs, lambda: measure_cold_start(effort.cold_starts))
