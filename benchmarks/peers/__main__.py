"""``make bench-peers``: the engine and whoever else is installed here, on the same load and through the same faults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.judged import results
from benchmarks.measured.parse import measure_parse
from benchmarks.peers.peers import BATCH, installed
from benchmarks.peers.play import Effort, Fault, Outcome, play
from benchmarks.stand.errors import FAILURES

REPORT = Path("reports/peers.json")
WIDTH = 120
"""Of the table, where nobody's terminal says how much there is."""
QUICK = Effort(seconds=3.0, refusal_s=2.0, kills=1)


class Peers(msgspec.Struct):
    """What a run leaves: reports/peers.json."""

    outcomes: list[Outcome]
    machine: dict[str, str | int]
    effort: Effort
    measured_at: str
    absent: list[str] = []


def table_of(outcomes: Sequence[Outcome], effort: Effort) -> Table:
    """Return the table that people read."""
    changes = outcomes[0].changes if outcomes else 0
    table = Table(
        title=f"{effort.rate_per_s:,.0f} changes/s of distinct keys, at most {BATCH} a request",
        caption="CPU (µs and yardsticks) and requests are a change and a million; lag is p50 and p99. Lost, of "
        f"{changes:,} changes and more, without a fault, by {effort.kills} × CLIENT KILL, by {effort.refusal_s:g} s of "
        "HTTP 500, by kill -9; and how long after the load's end the last of the others came.",
        caption_justify="left",
    )
    table.add_column("who", no_wrap=True)
    for name in ("µs", "y", "lag ms", "req/M", "lost", "KILL", "500", "-9"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in outcomes:
        table.add_row(
            one.name,
            f"{one.cpu_us:,.0f}",
            f"{one.yardsticks:,.0f}",
            f"{one.lag.p50_ms:,.1f}, {one.lag.p99_ms:,.1f}",
            f"{one.requests_per_million / 1_000:,.0f}k",
            *(_told(name, fault, one.ended) for name, fault in one.faults.items()),
        )
    return table


def _told(name: str, fault: Fault, ended: Sequence[str]) -> str:
    late = f", {fault.recovered_s:,.0f} s" if fault.recovered_s >= 1 else ""
    return f"{fault.lost:,}{late}{' (ended)' if name in ended else ''}"


@click.command()
@click.option("--quick", is_flag=True, help="Shorter loads, fewer faults.")
@click.option("--only", default="", help="Those whose name has this in it.")
def main(quick: bool, only: str) -> None:
    """Measure the engine beside others that are installed, print the table, and write reports/peers.json."""
    effort, console = QUICK if quick else Effort(), Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    peers, absent = installed()
    chosen = [peer for peer in peers if only in peer.name]
    if not chosen:
        raise click.UsageError(f"--only {only}: there are {', '.join(peer.name for peer in peers)}")
    outcomes: list[Outcome] = []
    for peer in chosen:
        with console.status(peer.name):
            try:
                outcomes.append(play(peer, effort, measure_parse))
            except FAILURES as error:
                absent.append(f"{peer.name}: {error}")
    console.print(table_of(outcomes, effort))
    for line in absent:
        console.print(line)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    told = Peers(outcomes, results.machine(), effort, results.now(), absent)
    REPORT.write_bytes(msgspec.json.format(msgspec.json.encode(told)))
    console.print(f"written to {REPORT}")
    if not outcomes:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
