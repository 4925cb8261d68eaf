"""``make bench``: every figure that the project claims, as a table, ``reports/bench.json``, and pages to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.judged import cost, results
from benchmarks.judged.figures import calibrate, costs_of, figures_of, histograms_of, series_of, soak_figures
from benchmarks.judged.results import Results
from benchmarks.measured.soak import REPORT as SOAK
from benchmarks.measured.soak import Soak
from benchmarks.measured.suite import QUICK, Effort, measure_all, parts
from benchmarks.report.pages import write_pages
from benchmarks.stand.errors import FAILURES
from benchmarks.stand.harness import Figure, in_yardsticks
from benchmarks.stand.load import info
from benchmarks.stand.servers import Server, redis_server

SOAK_MINUTES_MIN = 10.0
"""Of less a slope tells nothing."""


def table_of(figures: Sequence[Figure]) -> Table:
    """Return the table that people read; its notes follow as lines of their own."""
    notes = [f"{item.name}: {item.note}" for item in figures if item.note]
    table = Table(
        title="Everything on this machine: load, server, engine, function",
        caption="\n".join(notes),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("figure", "median", "unit", "y", "spread", "goal", "met"):
        is_number = name in {"median", "y", "spread"}
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    for item in figures:
        spread = f"{item.spread:.0%}" if len(item.runs) > 1 else "–"
        ratio = in_yardsticks(item)
        table.add_row(item.name, item.text, item.unit, ratio.text if ratio else "", spread, item.goal, item.met)
    return table


def server_of(server: Server) -> str:
    """Return which server it is, and its version."""
    facts = info(server.redis, "server")
    version = f"{facts.get('server_name', 'redis')} {facts.get('valkey_version') or facts.get('redis_version', '')}"
    return f"{version}, {'embedded' if server.pid else 'of REDIS_URL; what is measured alone, on an embedded one'}"


def last_soak(path: Path = SOAK) -> Soak | None:
    """Return what the last soak showed, where there was one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Soak)
    except (OSError, msgspec.MsgspecError):
        return None


def with_soak(told: Results, soak: Soak | None) -> Results:
    """Return the results with the soak's figures, and its memory over time; not of another machine, or a short one."""
    if soak is None or soak.machine.items() - told.machine.items() or soak.minutes < SOAK_MINUTES_MIN:
        return told
    series = msgspec.structs.replace(told.series, soak_memory=soak.samples)
    return msgspec.structs.replace(told, figures=[*told.figures, *soak_figures(soak)], series=series)


@click.command()
@click.option("--quick", is_flag=True, help="About a minute: each part once, and shortly.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the loads.")
def main(quick: bool, seed: int) -> None:
    """Measure, print, write the results and the report."""
    effort = QUICK if quick else Effort()
    console = Console()
    try:
        with redis_server() as server:
            where = server_of(server)
    except FAILURES as error:
        raise click.ClickException(str(error)) from error
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("measuring", total=parts(effort))

        def repeat(what: str, times: int, measure: Callable[[], Any]) -> list[Any]:
            found = []
            for time in range(times):
                progress.update(task, description=f"{what} ({time + 1} of {times})" if times > 1 else what)
                found.append(measure())
                progress.advance(task)
            return found

        try:
            measured = measure_all(effort, seed, repeat)
        except FAILURES as error:
            raise click.ClickException(str(error)) from error
        # What could not be measured was none.
        progress.update(task, completed=parts(effort))
    figures, costs = figures_of(measured), costs_of(measured)
    told = Results(
        figures=figures,
        machine={**results.machine(), "server": where},
        versions=results.versions(),
        seed=seed,
        quick=quick,
        measured_at=results.now(),
        repeat=f"make bench{' QUICK=1' if quick else ''}{f' SEED={seed}' if seed != 1 else ''}",
        series=series_of(measured),
        cost_per_million_changes=costs,
        calibration=calibrate(measured),
        histograms=histograms_of(measured),
    )
    told = with_soak(told, last_soak())
    console.print(table_of(told.figures))
    console.print(cost.table_of(costs))
    results.write(told)
    pages = write_pages(told, results.REPORT.parent)
    console.print(f"written to {results.REPORT}, {', '.join(map(str, pages))}")
    lost = told.figure("bench_lost")
    if lost is not None and lost.value:
        raise click.ClickException(f"{lost.value:.0f} changes were lost, stale or invented: {lost.note}")


if __name__ == "__main__":
    main()
