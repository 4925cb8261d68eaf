"""``make bench-cluster``: events a second and CPU an event over 1, 2, 3 primaries and 1 to 8 shards, as a table."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.cluster.nodes import Primary, cluster_of, load
from benchmarks.judged import results
from benchmarks.measured.parse import measure_parse
from benchmarks.stand.accounting import title_of
from benchmarks.stand.errors import FAILURES
from benchmarks.stand.harness import CONFIG, Rig, engine_environment, stand_in, start_engine, wait_until
from engine.config import RedisSettings
from engine.sandbox.functions.runtime import LambdaRuntime

REPORT = Path("reports/cluster.json")
PRIMARIES, SHARDS = (1, 2, 3), (1, 2, 4, 8)
CHANGES, WARM_UP = 600_000, 30_000
QUICK = 0.1
WIDTH = 120


class Point(msgspec.Struct, frozen=True):
    """One set-up under the same number of changes: CPU is µs a change, of all processes of a kind together."""

    primaries: int
    shards: int
    changes: int
    events_per_s: float
    subscribers_us: float
    invokers_us: float
    servers_us: float
    servers_alone_us: float
    """Without an engine, and without notifications."""
    yardstick_us: float
    lost: int

    def efficiency(self, first: Point) -> float:
        """Return what of an event's CPU, in yardsticks, is what one shard takes on one primary."""
        return (first.subscribers_us / first.yardstick_us) / (self.subscribers_us / self.yardstick_us)


class Told(msgspec.Struct):
    """What a run leaves: reports/cluster.json."""

    points: list[Point]
    machine: dict[str, str | int]
    measured_at: str


@contextmanager
def engine_on(primaries: Sequence[Primary], shards: int) -> Iterator[Rig]:
    """Run an engine on this cluster, with a function that accepts everything, until the block ends."""
    folder, url = Path(tempfile.mkdtemp(prefix="engine-bench-")), primaries[0].server.url.removesuffix("/0")
    try:
        with LambdaRuntime([stand_in(folder)]) as runtime:
            config = folder / "engine.toml"
            shape = {"shards": shards, "invokers": 1, "batch_size": 1_000, "parallelization_factor": 2}
            config.write_text(
                CONFIG.format(capture="", redis_url=url, folder=folder, function="accept", keys='["bench:*"]', **shape)
            )
            engine = start_engine(config, folder, engine_environment(runtime.endpoint))
            rig = Rig(RedisSettings(url=url), engine, folder, primaries[0].server.pid, runtime.pid)
            try:
                yield rig
            finally:
                rig.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(count: int, shards: int, changes: int) -> Point:
    """Send the same changes to a cluster without an engine, and with one."""
    with cluster_of(count) as primaries:
        load(primaries, WARM_UP)
        before = _servers_s(primaries)
        alone = load(primaries, changes)
        alone_us = (_servers_s(primaries) - before) / alone * 1e6
        with engine_on(primaries, shards) as rig:
            rig.wait("events_read", load(primaries, WARM_UP))
            _settle(rig)
            return _measure(rig, primaries, shards, changes, alone_us)


def _measure(rig: Rig, primaries: Sequence[Primary], shards: int, changes: int, alone_us: float) -> Point:
    yardstick = measure_parse()
    read, servers, children = rig.totals()["events_read"], _servers_s(primaries), _children_s(rig)
    started = time.perf_counter()
    sent = load(primaries, changes)
    rig.wait("events_read", read + sent)
    elapsed_s = time.perf_counter() - started
    servers_us = (_servers_s(primaries) - servers) / sent * 1e6
    _settle(rig)
    took = {role: (used - children[role]) / sent * 1e6 for role, used in _children_s(rig).items()}
    return Point(
        primaries=len(primaries),
        shards=shards,
        changes=sent,
        events_per_s=round(sent / elapsed_s),
        subscribers_us=round(took["subscriber"], 3),
        invokers_us=round(took["invoker"], 3),
        servers_us=round(servers_us, 3),
        servers_alone_us=round(alone_us, 3),
        yardstick_us=round((yardstick + measure_parse()) / 2, 3),
        lost=sent - (rig.totals()["events_read"] - read),
    )


def _settle(rig: Rig) -> None:
    def is_settled() -> bool:
        rig.check()
        totals = rig.totals()
        return not totals["keys_waiting"] + totals["keys_in_flight"] + totals["dirty_keys"]

    time.sleep(1.05)  # the status is up to a second old
    wait_until(is_settled, "all is delivered")


def _servers_s(primaries: Sequence[Primary]) -> float:
    return sum(one.cpu_s() for one in primaries)


def _children_s(rig: Rig) -> dict[str, float]:
    used = {"subscriber": 0.0, "invoker": 0.0}
    for process in psutil.Process(rig.engine.pid).children(recursive=True):
        title = title_of(process)
        for role in used:
            if role in title:
                times = process.cpu_times()
                used[role] += times.user + times.system
    return used


def table_of(points: Sequence[Point]) -> Table:
    """Return the table that people read."""
    table = Table(
        title=f"{points[0].changes if points else 0:,} changes, whatever the cluster",
        caption="CPU in µs a change. Efficiency: the subscribers' CPU an event, in yardsticks, of one shard on one "
        "primary, in parts of what it takes here. Events/s are of this machine's cores, which all share.",
        caption_justify="left",
    )
    heads = ("primaries", "shards", "events/s", "subscribers", "invokers", "servers", "without us", "efficiency")
    for name in heads:
        table.add_column(name, justify="right", no_wrap=True)
    for one in points:
        cells = (one.subscribers_us, one.invokers_us, one.servers_us, one.servers_alone_us)
        table.add_row(
            str(one.primaries),
            str(one.shards),
            f"{one.events_per_s:,.0f}",
            *(f"{cell:.2f}" for cell in cells),
            f"{one.efficiency(points[0]):.2f}",
        )
    return table


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of the changes.")
@click.option("--primaries", multiple=True, type=click.IntRange(1, 16), default=PRIMARIES, show_default=True)
@click.option("--shards", multiple=True, type=click.IntRange(1), default=SHARDS, show_default=True)
def main(quick: bool, primaries: tuple[int, ...], shards: tuple[int, ...]) -> None:
    """Measure, print the table, and write reports/cluster.json."""
    console = Console() if os.isatty(1) else Console(width=WIDTH)
    changes = int(CHANGES * (QUICK if quick else 1))
    points: list[Point] = []
    for count in primaries:
        for number in shards:
            with console.status(f"{count} primaries, {number} shards"):
                try:
                    points.append(measure(count, number, changes))
                except FAILURES as error:
                    raise click.ClickException(f"{count} primaries, {number} shards: {error}") from error
    console.print(table_of(points))
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    told = Told(points, results.machine(), results.now())
    REPORT.write_bytes(msgspec.json.format(msgspec.json.encode(told)))
    lost = sum(one.lost for one in points)
    console.print(f"written to {REPORT}; {lost:,} events lost")
    if lost:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
