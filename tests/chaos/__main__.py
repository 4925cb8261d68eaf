"""Play the faults: ``python -m tests.chaos [--seed N] [--quick] [--only NAME]… [--list] [--keep-logs]``.

``SERVER`` chooses the server's version by its name in `tests.servers`, or its binary by its path.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console

from tests.chaos import registry, report
from tests.chaos.engine_process import ROOT
from tests.chaos.model import summary
from tests.chaos.pool import own_folder, play_all
from tests.chaos.registry import Fault
from tests.servers import chosen
from tests.shares import parse, share_of, share_option

ROUNDS = 3
JOBS = max(1, min(4, os.cpu_count() or 1))
"""A round waits more than it works: about half a core."""
REPORT = ROOT / "reports" / "chaos.json"
LOGS = ROOT / "reports" / "chaos"


@click.command(help="Strike a running engine with faults, and compare every key afterwards.")
@click.option("--seed", type=int, help="Repeats a run; also the variable SEED. Default: a new one.")
@click.option("--quick", is_flag=True, help=f"One round of each fault instead of {ROUNDS}; also QUICK=1.")
@click.option("--only", multiple=True, metavar="NAME", help="Only faults whose name contains this. Repeatable.")
@click.option("--stage", type=click.Choice(registry.STAGES), help="Only faults of this stage.")
@share_option
@click.option("--list", "list_only", is_flag=True, help="Print the names of the faults.")
@click.option("--jobs", type=click.IntRange(1), default=JOBS, show_default=True, help="Rounds at once.")
@click.option("--wait", "wait_s", type=float, default=600.0, help="Wait for a destination so many seconds at most.")
@click.option("--keep-logs", is_flag=True, help=f"Keep logs, journals and state in {LOGS.relative_to(ROOT)}/.")
def main(
    seed: int | None,
    quick: bool,
    only: tuple[str, ...],
    stage: str | None,
    share: str,
    list_only: bool,
    jobs: int,
    wait_s: float,
    keep_logs: bool,
) -> None:
    """Play, report, and exit: 0 where nothing was lost, 1 otherwise, 2 where no fault has such a name."""
    console = Console(highlight=False)
    server = next(iter(chosen()))
    faults = [one for one in registry.load() if not only or any(part in one.name for part in only)]
    faults = [one for one in faults if stage in (None, one.stage)]
    faults = [one for one in share_of(faults, *parse(share)) if one.is_for(server)]
    if not faults:
        console.print("no fault has such a name; --list shows them")
        sys.exit(2)
    if list_only:
        for fault in faults:
            print(fault.name)
        return
    if seed is None:
        seed = int(os.environ.get("SEED") or secrets.randbelow(1_000_000))
    is_quick = quick or os.environ.get("QUICK", "") not in {"", "0"}
    os.environ["QUICK"] = "1" if is_quick else ""  # for faults that last long
    started = time.monotonic()
    rounds, logs = 1 if is_quick else ROUNDS, own_folder(LOGS, seed) if keep_logs else None
    console.print(f"{len(faults)} faults on {server}, {rounds} round(s) each, {jobs} at once, seed {seed}")
    lines = _play_all(console, faults, seed, rounds, jobs, wait_s, logs)
    if logs is not None:
        console.print(f"logs: {logs.relative_to(ROOT)}")
    took_s = time.monotonic() - started
    report.write(REPORT, seed, is_quick, lines, took_s)
    report.show(console, lines)
    missing = len(faults) - len(lines)
    failed = [line["name"] for line in lines if not line["passed"]]
    console.print(f"seed {seed}, {took_s:.0f} s; report: {REPORT.relative_to(ROOT)}")
    if failed:
        console.print(f"[red]{len(failed)} of {len(lines)} faults failed[/red]: {', '.join(failed)}")
        console.print(f"Again: SERVER={server} SEED={seed} python -m tests.chaos --only '{failed[0]}' --keep-logs")
        sys.exit(1)
    if missing:
        console.print(f"[red]interrupted: {missing} faults were not played[/red]")
        sys.exit(130)
    console.print("[green]Nothing was lost, nothing was stale, nothing was invented.[/green]")


def _play_all(console: Console, faults: Sequence[Fault], *how: Any) -> list[dict[str, Any]]:
    """Play every fault, and return their lines in the faults' order; on SIGINT or SIGTERM with what there is."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lines: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(KeyboardInterrupt):
        for name, rounds in play_all(faults, *how):
            lines[name] = summary(name, rounds)
            console.print(report.one_line(lines[name]), soft_wrap=True)
    return [lines[fault.name] for fault in faults if fault.name in lines]


if __name__ == "__main__":
    main()
