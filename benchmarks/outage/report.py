"""What is shown of an outage: the curve and the verdict, for a terminal, for documents and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks.outage.play import Result
from benchmarks.outage.sampler import MIB, Sample

MOMENTS = 14
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60


def write(path: Path, result: Result) -> None:
    """Write ``reports/outage.json``, and the same for documents beside it."""
    machine = {"system": platform.system(), "architecture": platform.machine(), "cpus": os.cpu_count()}
    report = {
        "machine": machine,
        "versions": {"engine": version("ingest-engine"), "python": platform.python_version()},
        **msgspec.to_builtins(result),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    path.with_suffix(".md").write_text(markdown(result))


def markdown(result: Result) -> str:
    """Return the curve as a table, and what it came to."""
    rows = [
        "| s | phase | changes/s | keys in Redis | backlog, keys | on disk, MiB | memory, MiB | other route, p99 ms |",
        "|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for sample in moments(result.samples):
        lag = "" if sample.live_ms_p99 is None else f"{sample.live_ms_p99:.1f}"
        rows.append(
            f"| {sample.at_s:.0f} | {sample.phase} | {sample.written_per_s:,.0f} | {sample.distinct_keys:,} "
            f"| {sample.backlog_keys:,} | {sample.backlog_bytes / MIB:.0f} | {sample.memory_mib:.0f} | {lag} |"
        )
    return "\n".join([*rows, "", *verdict(result), ""])


def verdict(result: Result) -> list[str]:
    """Return what is to be known of it, a line each."""
    lags = ", ".join(
        f"{phase} {lag['p50']:.1f} / {lag['p99']:.1f}" for phase, lag in result.live_ms.items() if "p50" in lag
    )
    return [
        f"- {result.outage_written:,} changes of {result.distinct_keys:,} keys in {result.plan.outage_s:.0f} s of"
        f" outage; {result.gaps} gaps.",
        f"- Memory at most {result.memory_mib_max:.0f} MiB; its bound by the settings is {result.bound_mib:.0f} MiB.",
        f"- Backlog at most {result.backlog_keys_max:,} entries, {result.backlog_bytes_max / MIB:.0f} MiB; gone"
        f" {result.worked_off_s:.0f} s after the function came back, while the load went on.",
        f"- {result.records:,} values arrived, {result.twice:,} of them twice; {result.out_of_order} after a newer one"
        f" of their key; {result.wrong} keys ended with another value than Redis.",
        f"- The healthy route's lag, p50 / p99 in ms: {lags}.",
    ]


def moments(samples: Sequence[Sample]) -> list[Sample]:
    """Return some samples, spread evenly over each phase, the first and the last of it always."""
    chosen: list[Sample] = []
    for phase in ("before", "outage", "recovery", "after"):
        mine = [sample for sample in samples if sample.phase == phase]
        count = min(len(mine), MOMENTS // 2 if phase == "outage" else MOMENTS // 4)
        chosen += [mine[round(index * (len(mine) - 1) / max(1, count - 1))] for index in range(count)]
    return chosen


def bar(values: Sequence[float]) -> str:
    """Return a curve of at most `WIDTH` characters, from 0 to the highest of these values."""
    if not values or max(values) <= 0:
        return ""
    step = max(1, -(-len(values) // WIDTH))
    tops = [max(values[at : at + step]) for at in range(0, len(values), step)]
    return "".join(BARS[min(len(BARS) - 1, int(top / max(tops) * (len(BARS) - 1) + 0.5))] for top in tops)


def show(console: Console, result: Result) -> None:
    """Print the curves and the verdict."""
    samples = result.samples
    curves = {
        "backlog, keys": [float(sample.backlog_keys) for sample in samples],
        "memory, MiB": [sample.memory_mib for sample in samples],
        "written/s": [sample.written_per_s for sample in samples],
        "delivered/s": [sample.delivered_per_s for sample in samples],
        "healthy p99, ms": [sample.live_ms_p99 or 0.0 for sample in samples],
    }
    for name, values in curves.items():
        console.print(f"{name:>16} {bar(values)} max {max(values, default=0):,.0f}", soft_wrap=True)
    for line in verdict(result):
        console.print(line, soft_wrap=True)
    for problem in result.problems:
        console.print(f"[red]{problem}[/red]", soft_wrap=True)
