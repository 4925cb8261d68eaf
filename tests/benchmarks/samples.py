"""Results as a run leaves them, made up."""

from __future__ import annotations

import numpy as np

from benchmarks.capacity.calibration import Calibration
from benchmarks.judged.cost import Cost
from benchmarks.judged.results import LoadPoint, Results, Series, StageCost, StagePoint, Throughput
from benchmarks.stand.harness import Figure, figure
from benchmarks.stand.watch import Sample


def runs(middle: float, noise: float, count: int = 5, seed: int = 1) -> list[float]:
    """Return runs about a middle, with this part of noise."""
    return (middle * (1 + np.random.default_rng(seed).uniform(-noise, noise, count))).tolist()


def results(figures: list[Figure] | None = None, *, with_series: bool = True) -> Results:
    """Return results with every series, or none."""
    series = Series(
        lag_over_load=[LoadPoint(rate, rate, 1, 2, 4, 8, 16, 0.1, 0.5) for rate in (1_000.0, 10_000.0, 50_000.0)],
        stages=[StagePoint(name, 1, 4, 8) for name in ("acknowledged", "captured", "fetched", "invoked")],
        throughput_over_shards=[Throughput(1, 100_000), Throughput(2, 180_000), Throughput(4, 300_000)],
        throughput_over_invokers=[Throughput(1, 100_000), Throughput(2, 180_000)],
        cpu_by_stage=[StageCost("server", 3.0), StageCost("invokers", 8.0)],
        memory=[Sample(at, 100.0 + at, 60, 1_000 * at) for at in range(30)],
        soak_memory=[Sample(at, 100.0 + at / 100, 60, 10) for at in range(0, 600, 5)],
    )
    return Results(
        figures=figures or [figure("engine_cpu_us", "µs", "<= 6", [5.0, 5.1, 5.2], "keys & <tags>")],
        machine={"cores": 2},
        versions={"python": "3.11"},
        measured_at="2026-11-24T00:00:00Z",
        series=series if with_series else Series(),
        cost_per_million_changes=[Cost("batch", 500, 2_000, 141_000, 40_000, 1_000_000)],
        calibration=Calibration(is_measured=True),
    )
