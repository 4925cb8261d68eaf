"""Everything that ``make bench`` measures, part by part."""

from __future__ import annotations

import itertools
import os
import statistics
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from benchmarks.drive.keys import Keyspace
from benchmarks.drive.plan import Load
from benchmarks.drive.schedule import Arrivals
from benchmarks.measured.capture import measure_capture
from benchmarks.measured.fetch import measure_fetch
from benchmarks.measured.functions import FunctionRun, measure_aurora, measure_cold_start, measure_dynamodb
from benchmarks.measured.guest import (
    HsetRatio,
    WaitingMemory,
    measure_hset_ratio,
    measure_hset_ratio_apart,
    measure_waiting_memory,
)
from benchmarks.measured.invoking import measure_invoking
from benchmarks.measured.others import RedisPy, measure_original, measure_redis_py
from benchmarks.measured.parse import beside_yardstick
from benchmarks.measured.path import FullLoad, full_load
from benchmarks.measured.ring import measure_ring
from benchmarks.measured.saturation import Saturation, Search, measure_saturation_rate
from benchmarks.measured.sending import Sending, measure_sending
from benchmarks.measured.server import ServerCosts, measure_server
from benchmarks.measured.trial import Ground, Shape, Trial, ground
from benchmarks.stand.servers import is_embedded
from benchmarks.stand.watch import Sample, Watch

MORE_BYTES = 8_192
SMALL_BATCH = 50
LIGHT_PER_S, TABLE_PER_S, HSET_PER_S = 1_000.0, 500.0, 2_000.0
KEYSPACE = Keyspace(100_000)
SCALED = (2, 4)
"""Shards, and invokers, beside one of each: the least that tell a law."""
MEMORY_S = 1.0
LOADED_INVOKERS = max(2, (os.cpu_count() or 1) // 2)
"""For saturation: one alone, on a slow machine, would be the limit before the host is."""


class _Shape(NamedTuple):
    batch_size: int = 1_000
    shards: int = 1
    invokers: int = 1


class Effort(msgspec.Struct, frozen=True):
    """How often and how long each part is measured."""

    runs: int = 3
    gated_runs: int = 5
    """Of what the gate compares: fewer say too little of the noise."""
    calls: int = 400
    seconds: float = 4.0
    short_s: float = 1.5
    events: int = 80_000
    search: Search = Search(seconds=2.5)
    original_s: float = 3.0
    function_batches: int = 6
    versioned_batches: int = 1
    aurora_batches: int = 20
    small_batches: int = 200
    cold_starts: int = 5
    pairs: int = 6
    hset_s: float = 1.5
    waiting_keys: int = 700_000
    is_scaled: bool = True
    """Whether full load is measured with more shards and invokers too."""


QUICK = Effort(
    runs=1,
    gated_runs=1,
    calls=100,
    seconds=2.0,
    short_s=0.5,
    events=40_000,
    search=Search(from_rate_per_s=40_000.0, seconds=1.0, halvings=1, tries=1),
    original_s=1.0,
    function_batches=2,
    versioned_batches=1,
    small_batches=30,
    cold_starts=3,
    pairs=1,
    hset_s=1.0,
    waiting_keys=100_000,
    is_scaled=False,
)

Repeat = Callable[[str, int, Callable[[], Any]], list[Any]]
"""Measure a part so often, under this name, and return what each time showed."""
Beside = Callable[[str, str, Callable[[], Any]], list[Any]]
"""The same, with a yardstick taken beside each time, which is kept for the part that is named first."""


@dataclass
class Measured:
    """What was measured, before it is put into figures."""

    rings: list[float] = field(default_factory=list)
    yardsticks: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By the name of the part that they were taken beside."""
    captures: list[dict[str, float]] = field(default_factory=list)
    fetches: list[float] = field(default_factory=list)
    large_fetches: list[float] = field(default_factory=list)
    server: list[ServerCosts] = field(default_factory=list)
    full: list[FullLoad] = field(default_factory=list)
    """Twice in each round: at its beginning, and at its end."""
    small: list[FullLoad] = field(default_factory=list)
    """Once a round, as all others."""
    by_shards: dict[int, list[FullLoad]] = field(default_factory=dict)
    by_invokers: dict[int, list[FullLoad]] = field(default_factory=dict)
    sendings: list[Sending] = field(default_factory=list)
    memory: list[Sample] = field(default_factory=list)
    saturation: Saturation = field(default_factory=lambda: Saturation(0, "", []))
    halves: list[Trial] = field(default_factory=list)
    light: list[Trial] = field(default_factory=list)
    table: list[Trial] = field(default_factory=list)
    hset: HsetRatio = field(default_factory=HsetRatio)
    """Server and application on some cores, the engine on others."""
    hset_shared: HsetRatio = field(default_factory=HsetRatio)
    invocations: list[float] = field(default_factory=list)
    waiting: list[WaitingMemory] = field(default_factory=list)
    originals: list[float] = field(default_factory=list)
    redis_py: list[RedisPy] = field(default_factory=list)
    puts: list[FunctionRun] = field(default_factory=list)
    upserts: list[FunctionRun] = field(default_factory=list)
    small_puts: list[FunctionRun] = field(default_factory=list)
    aurora: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)


def parts(effort: Effort) -> int:
    """Return how many measurements there are at most, for a bar: at half of a saturation that is not found is none."""
    return 5 + effort.runs * 7 + effort.gated_runs * 9


def measure_all(effort: Effort, seed: int, repeat: Repeat) -> Measured:
    """Measure everything, one part after the other, on an otherwise idle machine."""
    runs, found = effort.runs, Measured()

    def beside(part: str, what: str, measure: Callable[[], Any]) -> list[Any]:
        return repeat(what, effort.gated_runs, lambda: beside_yardstick(measure, found.yardsticks[part]))

    found.sendings = repeat("the load's sender", runs, lambda: measure_sending(effort.short_s))
    found.rings = repeat("rings", runs, lambda: measure_ring(effort.short_s))
    found.captures = beside("capture", "capture", lambda: measure_capture(effort.short_s))
    found.fetches = beside("fetch", "reads", measure_fetch)
    found.large_fetches = repeat("reads of large values", runs, lambda: measure_fetch(MORE_BYTES))
    found.server = repeat("the server alone", 1, lambda: measure_server(effort.short_s))
    _measure_full_load(effort, repeat, found)
    found.invocations = beside("invoke", "an invocation", lambda: measure_invoking(effort.calls))
    _measure_lags(effort, seed, repeat, beside, found)
    hset = (effort.pairs, effort.hset_s, HSET_PER_S, seed)
    (found.hset,) = repeat("the application's HSET", 1, lambda: measure_hset_ratio_apart(*hset))
    (found.hset_shared,) = repeat("the same on shared cores", 1, lambda: measure_hset_ratio(*hset))
    found.waiting = repeat("keys that wait", 1, lambda: measure_waiting_memory(effort.waiting_keys))
    found.redis_py = beside("redis_py", "redis-py in a loop", lambda: measure_redis_py(effort.short_s))
    _measure_functions(effort, repeat, beside, found)
    return found


def _measure_full_load(effort: Effort, repeat: Repeat, found: Measured) -> None:
    counts = SCALED if effort.is_scaled else ()
    shapes = [_Shape(), *(_Shape(shards=count) for count in counts), *(_Shape(invokers=count) for count in counts)]
    shapes.append(_Shape(batch_size=SMALL_BATCH))
    with ExitStack() as stack:
        # Engines that idle take next to nothing; on a server of the user's each would see the others' load.
        opened = {shape: stack.enter_context(full_load(*shape)) for shape in shapes} if is_embedded() else {}

        def one(shape: _Shape) -> FullLoad:
            if shape in opened:
                return opened[shape](effort.events)
            with full_load(*shape) as measure:
                return measure(effort.events)

        def one_round() -> dict[_Shape, FullLoad]:
            # In turn, so that each shape has seen the same machine.
            found.full.append(beside_yardstick(lambda: one(shapes[0]), found.yardsticks["engine"]))
            others = {shape: one(shape) for shape in shapes[1:]}
            found.originals.append(measure_original(effort.original_s))
            found.full.append(beside_yardstick(lambda: one(shapes[0]), found.yardsticks["engine"]))
            return others

        rounds = repeat("full load, in several shapes, and the original's loop", effort.runs, one_round)
    runs = {shape: [one[shape] for one in rounds] for shape in shapes[1:]}
    found.small = runs[shapes[-1]]
    found.by_shards = {count: runs[_Shape(shards=count)] for count in counts}
    found.by_invokers = {count: runs[_Shape(invokers=count)] for count in counts}


def _measure_lags(effort: Effort, seed: int, repeat: Repeat, beside: Beside, found: Measured) -> None:
    def at(place: Ground, rate_per_s: float) -> Trial:
        place.forget()
        arrivals = Arrivals("poisson", rate_per_s=rate_per_s)
        return place.run(Load(arrivals, KEYSPACE, seconds=effort.seconds, seed=seed))

    with ground(Shape()) as place:
        found.light = beside("light", "lag at 1,000 changes/s", lambda: at(place, LIGHT_PER_S))
    with ground(Shape(invokers=LOADED_INVOKERS)) as place:
        watch = Watch(place.rig, MEMORY_S)
        (found.saturation,) = repeat(
            "the search for saturation",
            1,
            lambda: measure_saturation_rate(place, Load(keyspace=KEYSPACE, seed=seed), effort.search, watch),
        )
        found.memory = watch.samples
        if found.saturation.is_found:
            half = found.saturation.rate_per_s / 2
            found.halves = beside("half", "lag at half of it", lambda: at(place, half))
    with ground(Shape(sink="dynamodb", batch_size=100)) as place:
        arrivals = Arrivals("poisson", rate_per_s=TABLE_PER_S)
        # Another seed each time: a table that nobody wrote to must not look like one that holds what it should.
        seeds = itertools.count(seed)
        found.table = repeat(
            "lag to DynamoDB",
            effort.runs,
            lambda: place.run(Load(arrivals, Keyspace(20_000), seconds=effort.seconds, seed=next(seeds))),
        )


def _measure_functions(effort: Effort, repeat: Repeat, beside: Beside, found: Measured) -> None:
    runs = effort.runs
    found.puts = beside("batch", "the DynamoDB function", lambda: measure_dynamodb("batch", effort.function_batches))
    found.upserts = beside(
        "versioned", "the same, versioned", lambda: measure_dynamodb("versioned", effort.versioned_batches)
    )
    found.aurora = beside("aurora", "the Aurora MySQL function", lambda: measure_aurora(effort.aurora_batches))
    size = max(1, round(statistics.median(one.records_per_invocation for one in found.light)))
    found.small_puts = repeat(
        f"the same, {size} records a batch", runs, lambda: measure_dynamodb("batch", effort.small_batches, size)
    )
    found.starts = repeat("its cold start", runs, lambda: measure_cold_start(effort.cold_starts))
