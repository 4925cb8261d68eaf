"""``make outage``: ``python -m benchmarks.outage [--minutes N] [--quick] [--seed N]``."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.outage.load import KEYS_MAX
from benchmarks.outage.play import Plan, play
from benchmarks.outage.report import show, write

REPORT = Path("reports/outage.json")
QUICK_MINUTES = 0.5


@click.command(help="Cut a function off at full write load; watch memory, disk and the other route; then compare.")
@click.option("--minutes", type=click.FloatRange(0.1, 120), default=10.0, show_default=True, help="Of outage.")
@click.option("--quick", is_flag=True, help=f"{QUICK_MINUTES:g} minutes, and fewer keys.")
@click.option(
    "--rate", type=click.FloatRange(100, 1e6), default=Plan(0).rate, show_default=True, help="Changes a second."
)
@click.option("--keys", type=click.IntRange(1_000, KEYS_MAX), help="Distinct keys.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the keys that are written.")
def main(minutes: float, quick: bool, rate: float, keys: int | None, seed: int) -> None:
    """Run, report, and exit: 0 if the engine kept its word, 1 where not."""
    plan = Plan(minutes * 60, rate=rate, keys=keys or Plan(0).keys, seed=seed)
    if quick:
        plan = Plan(QUICK_MINUTES * 60, before_s=5, after_s=5, rate=rate, keys=keys or 100_000, seed=seed)
    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=1.0)
        result = play(plan, lambda phase, share: progress.update(task, description=phase, completed=share))
    write(REPORT, result)
    show(console, result)
    console.print(f"report: {REPORT}")
    sys.exit(1 if result.problems else 0)


if __name__ == "__main__":
    main()
