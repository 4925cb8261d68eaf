"""``make bench-sources``: ``python -m benchmarks.sources [--quick] [--seed N]``.

The same changes are captured by keyspace events, and by a stream: then each is written by the function of
config/streams, which the server runs, so what the server pays for that is in its figure. The server's cost includes the
writes themselves.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.drive.commands import STREAM, Mix
from benchmarks.drive.keys import Keyspace
from benchmarks.drive.plan import Load
from benchmarks.drive.schedule import Arrivals
from benchmarks.measured.trial import Ground, Shape, Trial, ground
from benchmarks.stand.errors import BenchmarkError
from benchmarks.stand.servers import opened

REPORT = Path("reports/sources.json")
FUNCTION = Path(__file__).parents[2] / "config" / "streams" / "ingest.lua"
RATES_PER_S = (1_000.0, 25_000.0)
KEYS = 100_000
CAPTURE = {
    "keyspace": "",
    "stream": f'source = "stream"\nstreams = ["{STREAM}"]\nkey_field = "key"\nafter_ack = "trim"',
}


class Result(msgspec.Struct, frozen=True):
    """What one source showed at one rate; CPU in µs a change."""

    source: str
    rate_per_s: float
    server_cpu_us: float
    subscribers_cpu_us: float
    engine_cpu_us: float
    lag_p50_ms: float
    lag_p99_ms: float
    kept_schedule: bool
    wrong: int


def measure(source: str, seconds: float, seed: int) -> list[Result]:
    """Return the figures of a source, at each rate."""
    with ground(Shape(capture=CAPTURE[source])) as place:
        if source == "stream":
            load_function(place)
        return [result_of(source, rate, place.run(load_of(source, rate, seconds, seed))) for rate in RATES_PER_S]


def load_function(place: Ground) -> None:
    """Give the server the function that writes a key and its entry."""
    with opened(place.rig.redis) as connection:
        reply = connection.call("FUNCTION", "LOAD", "REPLACE", FUNCTION.read_bytes())
        if isinstance(reply, Exception):
            raise BenchmarkError(f"the server does not take functions: {reply}")


def load_of(source: str, rate_per_s: float, seconds: float, seed: int) -> Load:
    """Return the same changes for each source."""
    mix = Mix(entries=source == "stream")
    return Load(Arrivals("poisson", rate_per_s=rate_per_s), Keyspace(KEYS), mix, seconds=seconds, seed=seed)


def result_of(source: str, rate_per_s: float, trial: Trial) -> Result:
    """Return what is told of a trial."""
    return Result(
        source,
        rate_per_s,
        trial.accounts.cpu_us("server"),
        trial.accounts.cpu_us("subscribers"),
        trial.engine_cpu_us,
        trial.lag.p50_ms,
        trial.lag.p99_ms,
        trial.kept_schedule,
        trial.wrong,
    )


def show(console: Console, results: list[Result]) -> None:
    """Print the figures."""
    table = Table("source", "changes/s", "server µs", "engine µs", "of it capture", "lag p50 ms", "p99", "wrong")
    for one in results:
        rate = f"{one.rate_per_s:,.0f}" + ("" if one.kept_schedule else " (late)")
        table.add_row(
            one.source,
            rate,
            f"{one.server_cpu_us:.1f}",
            f"{one.engine_cpu_us:.1f}",
            f"{one.subscribers_cpu_us:.1f}",
            f"{one.lag_p50_ms:.1f}",
            f"{one.lag_p99_ms:.1f}",
            str(one.wrong),
        )
    console.print(table)


@click.command(help="Compare the sources of changes: CPU a change of server and engine, and lag.")
@click.option("--quick", is_flag=True, help="Three seconds each instead of ten.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the keys, and of the moments.")
def main(quick: bool, seed: int) -> None:
    """Run, report, and exit: 0 where everything arrived, 1 where not."""
    console = Console(highlight=False)
    results = [one for source in CAPTURE for one in measure(source, 3.0 if quick else 10.0, seed)]
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    show(console, results)
    console.print(f"report: {REPORT}")
    sys.exit(1 if any(one.wrong for one in results) else 0)


if __name__ == "__main__":
    main()
