"""`make bench` as a whole, each part once and as short as can be: it measures, and what it found can be told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.__main__ import with_soak
from benchmarks.capacity.plan import Wish, deploy
from benchmarks.capacity.prices import FILE, read_prices
from benchmarks.judged.figures import calibrate, costs_of, figures_of, series_of
from benchmarks.judged.results import Results, machine, read, versions, write
from benchmarks.lag.histogram import Percentiles
from benchmarks.measured.saturation import Search
from benchmarks.measured.soak import Soak
from benchmarks.measured.suite import Effort, measure_all, parts
from benchmarks.report.pages import write_pages
from benchmarks.stand.watch import Sample

SHORTEST = Effort(
    runs=1,
    gated_runs=1,
    seconds=0.5,
    short_s=0.2,
    events=4_000,
    search=Search(from_rate_per_s=1_000.0, seconds=0.3, halvings=0, rate_per_s_max=1_500.0),
    original_s=0.5,
    function_batches=1,
    versioned_batches=1,
    small_batches=2,
    cold_starts=1,
    pairs=1,
    hset_s=0.5,
    waiting_keys=20_000,
)


def test_every_part_measures_and_is_told(tmp_path: Path) -> None:
    """All parts run on real servers, as many as the bar counts; figures, plan and pages can be made of them."""
    done: list[str] = []

    def repeat(what: str, times: int, measure: Callable[[], Any]) -> list[Any]:
        done.extend([what] * times)
        return [measure() for _ in range(times)]

    measured = measure_all(SHORTEST, 1, repeat)
    assert len(done) == parts(SHORTEST)
    figures = {one.name: one for one in figures_of(measured)}
    assert figures["bench_lost"].value == 0, figures["bench_lost"]
    assert all(one.value > 0 for one in figures.values() if one.name != "bench_lost"), figures
    assert "0 events lost, 0 gaps" in figures["capture_headroom"].note
    assert "too few came to a dirty set" in figures["dirty_key_bytes"].note
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
