"""What was measured → figures, series to draw, the model's calibration."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.capacity.calibration import Calibration
from benchmarks.capacity.usl import Unidentifiable, Usl, fit
from benchmarks.judged.cost import Cost, cost_of
from benchmarks.judged.results import LoadPoint, Series, StageCost, StagePoint, Throughput
from benchmarks.lag.stages import StageLag
from benchmarks.measured.guest import NAME_BYTES, HsetRatio
from benchmarks.measured.path import FullLoad
from benchmarks.measured.soak import FLAT_PER_HOUR, Soak
from benchmarks.measured.suite import MORE_BYTES, Measured
from benchmarks.measured.trial import Trial
from benchmarks.stand.harness import Figure, figure, no_figure

PREDICTED_SHARDS = 8
LEAST_SHARE = 0.5
"""An event costs no less than this part of what it costs one alone, whatever noise says."""


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def calibrate(found: Measured) -> Calibration:
    """Return what the model is to know, of this machine."""
    capture, invoke = _median([run["cpu_us_per_event"] for run in found.captures]), invocation_us(found)
    full, many = (_median([getattr(run, name) for run in found.full]) for name in ("cpu_us", "batch_mean"))
    more = _median(found.large_fetches) - _median(found.fetches)
    server = found.server[0]
    waiting = found.waiting[0]
    return Calibration(
        capture_cpu_us=round(capture, 3),
        key_cpu_us=round(max(0.1, full - capture - invoke / many), 3),
        invoke_cpu_us=round(invoke, 1),
        value_cpu_us_per_kib=round(max(0.0, more / (MORE_BYTES / 1024)), 3),
        server_cpu_us=round(server.hset_us, 3),
        notify_cpu_us=round(server.notify_us, 3),
        pattern_cpu_us=round(server.pattern_us, 3),
        read_cpu_us=round(server.read_us, 3),
        idle_lag_ms=round(_median([one.lag.p50_ms for one in found.light]), 3),
        idle_lag_ms_p99=round(_median([one.lag.p99_ms for one in found.light]), 3),
        waiting_key_bytes=max(waiting.subscriber_bytes, waiting.invoker_bytes) - NAME_BYTES,
        shards_usl=law_of(found, found.by_shards),
        invokers_usl=law_of(found, found.by_invokers),
        is_measured=True,
    )


def invocation_us(found: Measured) -> float:
    """Return the CPU of an invocation, by what an event costs in small batches and in large ones."""
    full, small = (_median([run.cpu_us for run in runs]) for runs in (found.full, found.small))
    many, few = (_median([run.batch_mean for run in runs]) for runs in (found.full, found.small))
    return max(0.0, (small - full) / (1 / few - 1 / many)) if few < many else 0.0


def _by_round(found: Measured) -> list[FullLoad]:
    """Return what each round showed at its beginning, and at its end, as one."""
    pairs = zip(found.full[::2], found.full[1::2], strict=True)
    return [
        FullLoad(*(_median([getattr(one, name), getattr(other, name)]) for name in FullLoad.__dataclass_fields__))
        for one, other in pairs
    ]


def _shares(found: Measured, runs: Sequence[FullLoad]) -> list[float]:
    """Return of each round what an event costs one alone, as a part of what it costs in these runs' shape."""
    shares, invoke = [], invocation_us(found)
    for one, many in zip(_by_round(found), runs, strict=True):
        by_batches = invoke * (1 / many.batch_mean - 1 / one.batch_mean)
        shares.append(one.cpu_us / max(many.cpu_us - by_batches, one.cpu_us * LEAST_SHARE))
    return shares


def _fitted(shares: Mapping[int, float]) -> Usl | None:
    """Return the law through one alone and these counts, each with its share; None if they are too few."""
    try:
        return fit([(1, 1.0), *((count, count * share) for count, share in shares.items())])
    except Unidentifiable:
        return None


def _laws(found: Measured, more: dict[int, list[FullLoad]]) -> list[Usl]:
    """Return the law of each round; none where there are too few counts."""
    by_count = {count: _shares(found, runs) for count, runs in more.items()}
    rounds = (dict(zip(by_count, shares, strict=True)) for shares in zip(*by_count.values(), strict=True))
    return [law for shares in rounds if (law := _fitted(shares)) is not None]


def law_of(found: Measured, more: dict[int, list[FullLoad]]) -> Usl | None:
    """Return the law by the CPU of an event with more shards or invokers, as if each had a core of its own.

    Their throughput on a machine with fewer cores than processes tells of the machine instead. More invokers share the
    events of one server, so that batches are smaller: what the invocations cost that this makes is taken out, for it is
    no contention, and plans count it by itself. None without a law.
    """
    return _fitted({count: _median(_shares(found, runs)) for count, runs in more.items()})


YARDSTICK = "an event parsed by hiredis and put into a dictionary, beside what is measured: this machine's speed"
DRIVER = "one process of the load, on one core, answered by a server that nobody watches"
PER_MILLION = "Lambda requests a million changes, beside the lag of the same runs"
ENGINE = "CPU of all of the engine's processes, a change"
REDIS_PY = "an event heard by redis-py in a loop: beside capture_cpu_us"


def figures_of(found: Measured) -> list[Figure]:
    """Return every figure, with the runs that it is of."""
    return [*_engine_figures(found), *_lag_figures(found), *_guest_figures(found), *_function_figures(found)]


def _engine_figures(found: Measured) -> list[Figure]:
    capture = [run["cpu_us_per_event"] for run in found.captures]
    headroom = [run["server_us_per_event"] / run["cpu_us_per_event"] for run in found.captures]
    gaps, lost = (sum(run[name] for run in found.captures) for name in ("gaps", "lost"))
    batches = f"distinct keys, {_median([run.batch_mean for run in found.full]):.0f} a batch on average"
    by = found.yardsticks
    peers = found.redis_py
    times = [run.events_per_s / loop for run, loop in zip(_by_round(found), found.originals, strict=True)]
    figures = [
        figure("driver_hset_per_s", "1/s", ">= 150000", [one.hset_per_s for one in found.sendings], DRIVER),
        figure("yardstick_us", "µs", "", [one for taken in by.values() for one in taken], YARDSTICK),
        figure("capture_cpu_us", "µs", "<= 1.0", capture, "an event, socket to ring", by["capture"]),
        figure(
            "capture_headroom",
            "×",
            ">= 2",
            headroom,
            f"a subscriber's events/s over a primary's; {lost:.0f} events lost, {gaps:.0f} gaps",
        ),
        figure("ring_events_per_s", "1/s", ">= 4000000", found.rings, "256 events a frame"),
        figure("fetch_cpu_us", "µs", "", found.fetches, "read, body and record of a hash of two fields", by["fetch"]),
        figure("engine_cpu_us", "µs", "<= 6", [run.cpu_us for run in found.full], batches, by["engine"]),
        figure("engine_events_per_s", "1/s", "", [run.events_per_s for run in found.full], batches),
        figure("original_events_per_s", "1/s", "", found.originals, "connect, read, invoke, one at a time"),
        figure("times_original", "×", ">= 100", times, "engine_events_per_s over the original's"),
        _in_y("invoke_cpu_y", "<= 200", found.invocations, by["invoke"], "a call of 1 kB, paced, over HTTP"),
        figure("redis_py_hear_cpu_us", "µs", "", [one.hear_us for one in peers], REDIS_PY, by["redis_py"]),
        figure("redis_py_read_cpu_us", "µs", "", [one.read_us for one in peers], f"{REDIS_PY}, read", by["redis_py"]),
    ]
    efficiencies = [law.efficiency(PREDICTED_SHARDS) for law in _laws(found, found.by_shards)]
    if efficiencies:
        figures.append(figure("scaling_efficiency", "×", ">= 0.85", efficiencies, _predicted()))
    return figures


def _lag_figures(found: Measured) -> list[Figure]:
    saturation, light, table = found.saturation, found.light, found.table
    halves = found.halves
    everything = [*light, *saturation.trials, *halves, *table]
    lost = sum(one.wrong for one in everything) + sum(run["lost"] for run in found.captures)
    judged = (
        f"lost, stale or invented, of {sum(one.changes for one in everything):,} changes in {len(everything)} loads"
    )
    found_lost = figure("bench_lost", "", "<= 0", [lost], f"{judged}, and of the captures' events")
    at_light = f"at 1,000 changes/s; {_late(light)}; {_requests(light)}"
    at_table = f"at 500/s; {_late(table)}; {_requests(table)}"
    return [
        found_lost,
        *_half_figures(found),
        figure("lag_ms_p50", "ms", "<= 1.5", [one.lag.p50_ms for one in light], at_light),
        figure("lag_ms_p99", "ms", "<= 4", [one.lag.p99_ms for one in light], f"in the same runs; {_requests(light)}"),
        figure("light_requests", "1/M", "", [one.requests_per_million for one in light], PER_MILLION),
        _in_y("light_cpu_y", "<= 400", [one.engine_cpu_us for one in light], found.yardsticks["light"], ENGINE),
        figure("dynamodb_lag_ms_p99", "ms", "<= 60", [one.lag.p99_ms for one in table], at_table),
    ]


def _half_figures(found: Measured) -> list[Figure]:
    """Return saturation, and what was seen at half of it; none of it where no saturation was found."""
    halves, saturation = found.halves, found.saturation
    units = {
        "saturation_events_per_s": ("1/s", ""),
        "half_lag_ms_p50": ("ms", "<= 3"),
        "half_lag_ms_p99": ("ms", "<= 8"),
        "half_lag_ms_p999": ("ms", "<= 25"),
        "half_requests": ("1/M", ""),
        "half_cpu_y": ("y", "<= 35"),
        "wire_in_bytes": ("B", ""),
        "wire_out_bytes": ("B", ""),
        "wire_payload_bytes": ("B", ""),
    }
    if not saturation.is_found:
        return [no_figure(name, *told, saturation.reason) for name, told in units.items()]
    at = f"at {halves[0].wanted_per_s:,.0f} changes/s; {_late(halves)}; {_requests(halves)}"
    same = f"in the same runs; {_requests(halves)}"

    def of(name: str, runs: Sequence[float], note: str) -> Figure:
        return figure(name, *units[name], runs, note)

    cpu = [one.engine_cpu_us for one in halves]
    return [
        of("saturation_events_per_s", [saturation.rate_per_s], f"limited by {saturation.limited_by}"),
        of("half_lag_ms_p50", [one.lag.p50_ms for one in halves], at),
        of("half_lag_ms_p99", [one.lag.p99_ms for one in halves], same),
        of("half_lag_ms_p999", [one.lag.p999_ms for one in halves], same),
        of("half_requests", [one.requests_per_million for one in halves], PER_MILLION),
        _in_y("half_cpu_y", units["half_cpu_y"][1], cpu, found.yardsticks["half"], ENGINE),
        of("wire_in_bytes", [one.accounts.server_in_bytes for one in halves], "a change, to Redis"),
        of("wire_out_bytes", [one.accounts.server_out_bytes for one in halves], "from it, events too"),
        of("wire_payload_bytes", [one.payload_bytes for one in halves], "a change, to the function"),
    ]


def _in_y(name: str, goal: str, cpu_us: Sequence[float], yardsticks: Sequence[float], what: str) -> Figure:
    """Make a figure of CPU in yardsticks, each run's by the one that was taken beside it."""
    runs = [us / by for us, by in zip(cpu_us, yardsticks, strict=True)]
    return figure(name, "y", goal, runs, f"{what}: {_median(cpu_us):,.1f} µs")


def _guest_figures(found: Measured) -> list[Figure]:
    waiting = found.waiting[0]
    most = max(waiting.subscriber_bytes, waiting.invoker_bytes)
    where = f"{waiting.subscriber_bytes:.0f} in a dirty set, {waiting.invoker_bytes:.0f} in an invoker's lane"
    if not waiting.subscriber_bytes:
        where = f"in an invoker's lane; too few came to a dirty set ({waiting.subscriber_keys:,})"
    return [
        _hset("hset_p99_ratio", "<= 1.10", found.hset, "server and load on cores of their own"),
        _hset("hset_p99_ratio_shared", "", found.hset_shared, "all on the same cores"),
        figure("dirty_key_bytes", "B", "<= 200", [most], where),
    ]


def _function_figures(found: Measured) -> list[Figure]:
    by = found.yardsticks
    item = "the function's own, of 500 an invocation"
    start = "a new interpreter to its first answer, without TLS"
    return [
        figure("dynamodb_batch_cpu_us", "µs", "<= 25", [run.cpu_us for run in found.puts], item, by["batch"]),
        figure(
            "dynamodb_versioned_cpu_us",
            "µs",
            "<= 40",
            [run.cpu_us for run in found.upserts],
            f"{item}, versioned",
            by["versioned"],
        ),
        figure("aurora_mysql_cpu_us", "µs", "", found.aurora, f"{item}, to its statements' text", by["aurora"]),
        figure("dynamodb_cold_start_ms", "ms", "<= 300", found.starts, start),
    ]


def soak_figures(soak: Soak) -> list[Figure]:
    """Return the figures of a soak."""
    at = f"make soak{f' of {soak.measured_at}' if soak.measured_at else ''}: {soak.minutes:g} minutes"
    note = f"{at} at {soak.rate_per_s:,.0f} changes/s, {soak.changes:,} changes, {soak.gaps} gaps"
    wrong = soak.lost + soak.stale + soak.invented
    spread = soak.descriptors_max - soak.descriptors_min
    return [
        figure("soak_lost", "", "<= 0", [wrong], note),
        figure("soak_rss_slope", "/h", f"<= {FLAT_PER_HOUR}", [soak.rss_slope_per_hour], "of the engine's memory"),
        figure("soak_descriptors", "", "<= 0", [spread], f"most − least, of {soak.descriptors_max}"),
    ]


def _late(trials: Sequence[Trial]) -> str:
    kept = all(one.kept_schedule for one in trials)
    late = max(one.sender_late.p99_ms for one in trials)
    return f"sender {'on' if kept else 'NOT on'} schedule, late by {late:.1f} ms at its p99"


def _requests(trials: Sequence[Trial]) -> str:
    return f"{_median([one.requests_per_million for one in trials]):,.0f} requests a million changes"


def _hset(name: str, goal: str, hset: HsetRatio, where: str) -> Figure:
    if hset.problem:
        return no_figure(name, "×", goal, hset.problem)
    with_ms, without_ms = statistics.median(hset.with_ms), statistics.median(hset.without_ms)
    note = f"{with_ms:.2f} ms with the engine, {without_ms:.2f} without, at 2,000/s; {where}"
    return figure(name, "×", goal, hset.ratios, note)


def _predicted() -> str:
    return f"predicted for 1 → {PREDICTED_SHARDS} shards, by the CPU an event with 1, 2 and 4"


def series_of(found: Measured) -> Series:
    """Return what is drawn."""
    halves = [_middle(found.halves)] if found.halves else []
    trials = [_middle(found.light), *halves, *found.saturation.trials]
    # Of a rate that was retried the try that was better: the other one is why it was. Two digits of it: the search
    # may have come by one that is here.
    by_rate = {float(f"{one.wanted_per_s:.2g}"): one for one in sorted(trials, key=lambda one: -one.lag.p99_ms)}
    return Series(
        lag_over_load=[_point(one) for _, one in sorted(by_rate.items())],
        stages=[_stage(one) for half in halves for one in half.stages],
        throughput_over_shards=_throughput(found.full, found.by_shards),
        throughput_over_invokers=_throughput(found.full, found.by_invokers),
        cpu_by_stage=_stage_costs(found),
        memory=found.memory,
    )


def histograms_of(found: Measured) -> dict[str, list[str]]:
    """Return the lags of the runs at light load, at half of saturation, and to the table."""
    named = (("invoked", found.light), ("invoked", found.halves), ("committed", found.table))
    return {
        f"{trials[0].wanted_per_s:.0f}/s, {stage}": [one.histogram for one in trials]
        for stage, trials in named
        if trials
    }


def _middle(trials: Sequence[Trial]) -> Trial:
    return sorted(trials, key=lambda one: one.lag.p99_ms)[len(trials) // 2]


def _point(trial: Trial) -> LoadPoint:
    lag = trial.lag
    return LoadPoint(
        trial.wanted_per_s,
        trial.rate_per_s,
        lag.p50_ms,
        lag.p90_ms,
        lag.p99_ms,
        lag.p999_ms,
        lag.max_ms,
        trial.sender_late.p99_ms,
        trial.accounts.busy,
    )


def _stage(one: StageLag) -> StagePoint:
    return StagePoint(one.stage, one.lag.p50_ms, one.lag.p99_ms, one.lag.p999_ms)


def _throughput(full: Sequence[FullLoad], more: dict[int, list[FullLoad]]) -> list[Throughput]:
    by_count = {1: list(full), **more}
    return [Throughput(count, round(_median([run.events_per_s for run in runs]))) for count, runs in by_count.items()]


def _stage_costs(found: Measured) -> list[StageCost]:
    """Return the CPU of every part, an event, at half of saturation."""
    if not found.halves:
        return []
    trial = _middle(found.halves)
    return [StageCost(one.role, one.cpu_us, one.switches) for one in trial.accounts.roles]


def costs_of(found: Measured) -> list[Cost]:
    """Return what a million changes cost."""
    return [cost_of("batch", found.puts), cost_of("versioned", found.upserts), cost_of("batch", found.small_puts)]
