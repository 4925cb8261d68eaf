"""`make bench` as a whole, each part once and as short as can be: it measures, and what it found can be told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.__main__ import table_of, with_soak
from benchmarks.capacity.plan import Wish, deploy
from benchmarks.capacity.prices import FILE, read_prices
from benchmarks.judged.figures import calibrate, costs_of, figures_of, series_of
from benchmarks.judged.results import Results, machine, read, versions, write
from benchmarks.lag.check import Verdict
from benchmarks.lag.histogram import Percentiles
from benchmarks.lag.stages import StageLag
from benchmarks.measured.functions import FunctionRun
from benchmarks.measured.guest import HsetRatio, WaitingMemory
from benchmarks.measured.others import RedisPy
from benchmarks.measured.path import FullLoad
from benchmarks.measured.saturation import Saturation, Search
from benchmarks.measured.sending import Sending
from benchmarks.measured.soak import Soak
from benchmarks.measured.suite import Effort, Measured, measure_all, parts
from benchmarks.measured.trial import Trial
from benchmarks.report.pages import write_pages
from benchmarks.stand.accounting import Accounts, RoleCost
from benchmarks.stand.watch import Sample

SHORTEST = Effort(
    runs=1,
    gated_runs=1,
    calls=10,
    seconds=0.5,
    short_s=0.2,
    events=4_000,
    search=Search(from_rate_per_s=1_000.0, seconds=0.3, halvings=0, rate_per_s_max=1_500.0),
    original_s=0.5,
    function_batches=1,
    versioned_batches=1,
    aurora_batches=2,
    small_batches=2,
    cold_starts=1,
    pairs=1,
    hset_s=0.5,
    waiting_keys=20_000,
)
YARDSTICKS = {"yardstick_us"}


def test_every_part_measures_and_is_told(tmp_path: Path) -> None:
    """All parts run on real servers, as many as the bar counts; figures, plan and pages can be made of them."""
    done: list[str] = []

    def repeat(what: str, times: int, measure: Callable[[], Any]) -> list[Any]:
        done.extend([what] * times)
        return [measure() for _ in range(times)]

    measured = measure_all(SHORTEST, 1, repeat)
    # On a busy machine no rate may hold: then nothing is measured at half of it, and the figures say why.
    assert len(done) == parts(SHORTEST) - (0 if measured.saturation.is_found else SHORTEST.gated_runs)
    figures = {one.name: one for one in figures_of(measured)}
    assert figures["bench_lost"].value == 0, figures["bench_lost"]
    for one in figures.values():
        if one.value is None:
            assert one.note.startswith("no figure: "), one
        else:
            assert one.value > 0 or one.name == "bench_lost", one
    assert figures["light_cpu_y"].unit == figures["invoke_cpu_y"].unit == "y"
    assert figures["light_requests"].value
    assert "0 events lost, 0 gaps" in figures["capture_headroom"].note
    assert "too few came to a dirty set" in figures["dirty_key_bytes"].note
    for one in figures.values():
        assert one.value is None or one.unit != "µs" or one.yardsticks or one.name in YARDSTICKS, one
    calibration = calibrate(measured)
    assert deploy(Wish(rate_per_s=1_000, keys=10_000), calibration, read_prices(FILE)).shards >= 1
    told = Results(
        figures=list(figures.values()),
        machine=machine(),
        versions=versions(),
        series=series_of(measured),
        cost_per_million_changes=costs_of(measured),
        calibration=calibration,
    )
    write(told, tmp_path / "bench.json")
    assert msgspec.to_builtins(read(tmp_path / "bench.json")) == msgspec.to_builtins(told)
    for page in write_pages(told, tmp_path):
        text = page.read_text()
        assert all(name in text for name in figures)


def test_a_soak_of_another_machine_is_left_out() -> None:
    """A soak's figures stand in the results if it ran on this machine, and for long; else its memory is not shown."""
    here: dict[str, str | int] = {"cores": 2, "processor": "a"}
    told = Results(figures=[], machine={**here, "server": "embedded"})
    lag = Percentiles(10, 1, 2, 3, 4, 5)
    soak = Soak(100.0, 20.0, 10, 0, 0, 0, 0, 0.0, 50, 50, lag, lag, [Sample(0, 100, 50, 0)], "then", 0, here)
    assert with_soak(told, soak).figure("soak_lost") is not None
    for other in ({"machine": {**here, "processor": "b"}}, {"minutes": 2.0}):
        assert with_soak(told, msgspec.structs.replace(soak, **other)).figure("soak_lost") is None


def test_a_saturation_that_was_not_found_is_no_figure() -> None:
    """Where no rate held there is no figure of it, nor of anything at half of it: the reason stands there instead."""
    measured = measured_with(Saturation(0, "the host", [trial(2_000.0), trial(1_000.0)]))
    figures = {one.name: one for one in figures_of(measured)}
    for name in ("saturation_events_per_s", "half_lag_ms_p99", "half_cpu_y", "wire_in_bytes"):
        assert figures[name].value is None, name
        assert figures[name].met == ""
        assert "not even 1,000 changes/s held" in figures[name].note
        assert "the host" in figures[name].note
    assert figures["lag_ms_p99"].value == 4.0
    series = series_of(measured)
    assert (series.stages, series.cpu_by_stage) == ([], [])
    assert table_of(list(figures.values())).row_count == len(figures)


def test_what_could_not_be_kept_apart_is_no_figure() -> None:
    """On a machine of one core the application's latency beside the engine has a figure on shared cores alone."""
    measured = measured_with(Saturation(2_000, "the host", [trial(2_000.0)]))
    measured.hset = HsetRatio(problem="there is only one core")
    figures = {one.name: one for one in figures_of(measured)}
    assert figures["hset_p99_ratio"].value is None
    assert "only one core" in figures["hset_p99_ratio"].note
    assert figures["hset_p99_ratio_shared"].value == 2.0
    assert figures["half_cpu_y"].value == figures["light_cpu_y"].value == 100.0
    assert figures["light_requests"].value == 500_000.0


def trial(rate_per_s: float) -> Trial:
    """Return a trial of a tenth of a second in which two changes were delivered at a time."""
    lag = Percentiles(10, 1, 2, 4, 5, 6)
    accounts = Accounts([RoleCost("invokers", 50.0, 1.0)], 1.0, 1.0, 0.5, "invokers", 0.5)
    changes = round(rate_per_s / 10)
    stages = [StageLag("invoked", lag)]
    verdict = Verdict(10, 0, 0, 0)
    return Trial(
        rate_per_s, rate_per_s, changes, True, lag, lag, stages, 0, verdict, accounts, changes, changes // 2, 9.0, 1
    )


def measured_with(saturation: Saturation) -> Measured:
    """Return what was measured, made up, with this saturation."""
    found = Measured(saturation=saturation)
    found.captures = [dict.fromkeys(("cpu_us_per_event", "server_us_per_event", "gaps", "lost"), 1.0)]
    found.sendings, found.rings, found.fetches, found.originals = [Sending(1.0, 1.0)], [1.0], [1.0], [1.0]
    found.full = [FullLoad(8.0, 50_000, 100)] * 2
    found.invocations, found.redis_py = [100.0], [RedisPy(1.0, 1.0)]
    found.light, found.table = [trial(1_000.0)], [trial(500.0)]
    found.halves = [trial(1_000.0)] if saturation.is_found else []
    found.hset = found.hset_shared = HsetRatio([2.0], [1.0])
    found.waiting = [WaitingMemory(1.0, 1.0, 1, 1)]
    found.puts = found.upserts = [FunctionRun(500, 20.0, 5.0, 1.0, 1.0)]
    found.starts, found.aurora = [100.0], [10.0]
    for part in ("capture", "fetch", "engine", "invoke", "light", "half", "redis_py", "batch", "versioned", "aurora"):
        found.yardsticks[part] = [0.5]
    found.yardsticks["engine"] = [0.5, 0.5]
    return found
