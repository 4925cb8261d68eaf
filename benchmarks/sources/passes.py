"""``make bench-scans``: passes of the scan source, and what values that are not delivered again save, as tables."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from benchmarks.sources.scans import measure_scans
from benchmarks.sources.unchanged import measure_saved
from benchmarks.stand.errors import FAILURES

KEYS = (1_000_000,)
QUICK_KEYS = 50_000


@click.command(help="Measure the scan source and skip_unchanged on this machine.")
@click.option("--quick", is_flag=True, help="With fewer keys.")
@click.option("--keys", type=click.IntRange(1_000), multiple=True, help="Keys to scan; repeatable.")
def main(quick: bool, keys: tuple[int, ...]) -> None:
    """Measure, and print."""
    console = Console(width=120)
    try:
        table = Table(
            *("keys", "s a pass", "server %", "server µs", "subscriber µs", "invoker µs"),
            *("digests B", "names B", "memory B"),
            title="scan: a pass over keys that did not change, as fast as it goes; each a key",
        )
        for count in keys or ((QUICK_KEYS,) if quick else KEYS):
            one = measure_scans(count)
            shown = (
                one.pass_s, 100 * one.server_share, one.server_us, one.subscriber_us, one.invokers_us,
                one.digest_bytes, one.names_bytes, one.memory_bytes,
            )  # fmt: skip
            table.add_row(f"{one.keys:,}", *(f"{value:,.1f}" for value in shown))
        console.print(table)
        table = Table(
            *("skip_unchanged", "writes", "delivered", "skipped", "engine µs a write", "s"),
            title="half of the writes change nothing",
        )
        for skips in (False, True):
            saved = measure_saved(10_000 if quick else 50_000, skips=skips)
            table.add_row(
                "yes" if skips else "no", f"{saved.writes:,}", f"{saved.delivered:,}", f"{saved.skipped:,}",
                f"{saved.engine_us:,.1f}", f"{saved.took_s:,.1f}",
            )  # fmt: skip
        console.print(table)
    except FAILURES as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
