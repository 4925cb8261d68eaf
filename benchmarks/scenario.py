"""Scenarios: loads with names, from files that users edit. ``make scenario NAME=steady``."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import click
import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.drive.commands import BadMix, Mix
from benchmarks.drive.keys import BadKeyspace, Keyspace
from benchmarks.drive.schedule import Arrivals, BadArrivals
from benchmarks.drive.sender import Load, lay_out
from benchmarks.saturation import Saturation, Search, measure_saturation_rate
from benchmarks.servers import ServerError
from benchmarks.sinks import SinkError, SinkName
from benchmarks.trial import Ground, Shape, Trial, ground

FOLDER = Path(__file__).parent / "scenarios"
REPORTS = Path("reports")
SECONDS_MAX = 86_400.0


class Outage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how long the function answers nothing, and when that begins."""

    from_s: float
    seconds: float


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One scenario: what is sent, to what, and whether the function goes away meanwhile.

    ``kind`` ``load`` sends it once; ``saturation`` searches the highest rate that keeps the limit of ``search``.
    """

    about: str
    kind: Literal["load", "saturation"] = "load"
    seconds: float = 10.0
    shape: Shape = msgspec.field(default_factory=Shape)
    arrivals: Arrivals = msgspec.field(default_factory=Arrivals)
    keyspace: Keyspace = msgspec.field(default_factory=Keyspace)
    mix: Mix = msgspec.field(default_factory=Mix)
    search: Search = msgspec.field(default_factory=Search)
    outage: Outage | None = None

    def load(self, seed: int, seconds: float | None = None) -> Load:
        """Return what is sent."""
        return Load(self.arrivals, self.keyspace, self.mix, seconds or self.seconds, seed)


class ScenarioError(Exception):
    """A scenario that can't be run; the message says where and why."""


def names() -> list[str]:
    """Return the scenarios that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_scenario(name: str) -> Scenario:
    """Return a scenario by its name or its file; raise `ScenarioError`."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        scenario = msgspec.toml.decode(path.read_bytes(), type=Scenario)
    except FileNotFoundError as error:
        raise ScenarioError(f"no scenario {name}: there is {', '.join(names())}, or name a .toml file") from error
    except OSError as error:
        raise ScenarioError(f"{path} can't be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ScenarioError(f"{path}: {error}") from error
    try:
        lay_out(msgspec.structs.replace(scenario.load(1), seconds=min(1.0, scenario.seconds)))
    except (BadArrivals, BadKeyspace, BadMix) as error:
        raise ScenarioError(f"{path}: {error}") from error
    if not 0 < scenario.seconds <= SECONDS_MAX:
        raise ScenarioError(f"{path}: seconds is {scenario.seconds:g}: more than 0, at most a day, is allowed")
    outage = scenario.outage
    if outage is not None and not (outage.from_s >= 0 and 0 < outage.seconds < 55):
        raise ScenarioError(f"{path}: outage: from 0 s on, for less than 55 s, before invocations time out, is allowed")
    return scenario


def run_scenario(scenario: Scenario, seed: int, seconds: float | None = None) -> Trial | Saturation:
    """Run it on parts of its own; return what it showed."""
    with ground(scenario.shape) as place:
        if scenario.kind == "saturation":
            return measure_saturation_rate(place, scenario.keyspace, scenario.search, seed)
        return place.run(scenario.load(seed, seconds), _during(place, scenario.outage))


def _during(place: Ground, outage: Outage | None) -> Callable[[], None] | None:
    """Return what stops the function's runtime for the time of the outage."""
    if outage is None:
        return None
    began_s, stopped = time.monotonic(), [False]

    def look() -> None:
        is_due = outage.from_s <= time.monotonic() - began_s < outage.from_s + outage.seconds
        if is_due is not stopped[0]:
            stopped[0] = is_due
            runtime = psutil.Process(place.rig.runtime_pid)
            for process in (runtime, *runtime.children(recursive=True)):
                os.kill(process.pid, signal.SIGSTOP if is_due else signal.SIGCONT)

    return look


def table_of(name: str, trial: Trial) -> Table:
    """Return the table that people read."""
    verdict, accounts = trial.verdict, trial.accounts
    table = Table(title=name, show_header=False)
    on_schedule = "on schedule" if trial.kept_schedule else "NOT on schedule: this is another load than was asked for"
    table.add_row("sent", f"{trial.changes:,} changes, {trial.rate_per_s:,.0f}/s of {trial.wanted_per_s:,.0f}/s wanted")
    table.add_row("sender", f"{on_schedule}; late by {trial.sender_late.p99_ms:.1f} ms at its p99")
    for one in trial.stages:
        lag = one.lag
        told = f"p50 {lag.p50_ms:.1f}, p99 {lag.p99_ms:.1f}, p99.9 {lag.p999_ms:.1f}, max {lag.max_ms:.1f} ms"
        table.add_row(f"lag, {one.stage}", told)
    table.add_row(
        "check",
        f"{verdict.keys:,} keys: {verdict.lost} lost, {verdict.stale} stale, {verdict.invented} invented; "
        f"{trial.missing} changes never arrived",
    )
    table.add_row("delivered", f"{trial.records:,} records, {trial.records_per_invocation:,.1f} an invocation")
    cpu = ", ".join(f"{one.role} {one.cpu_us:.1f}" for one in accounts.roles)
    table.add_row("CPU", f"{cpu} µs a change; {accounts.busy:.0%} of all cores")
    switches = ", ".join(f"{one.role} {one.switches:.2f}" for one in accounts.roles)
    table.add_row("switches", f"{switches} a change")
    table.add_row("wire", f"{accounts.server_in_bytes:.0f} bytes to Redis, {accounts.server_out_bytes:.0f} from it")
    return table


@click.command()
@click.argument("name", default="steady")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1, SECONDS_MAX), help="Another length than the scenario's.")
@click.option("--sink", type=click.Choice(get_args(SinkName)), help="Another sink than the scenario's.")
def main(name: str, seed: int, seconds: float | None, sink: SinkName | None) -> None:
    """Run a scenario (a name, or a .toml file), and write reports/scenario-NAME.json.

    It runs on an embedded server, or on the one that REDIS_URL names.
    """
    console = Console(highlight=False)
    try:
        scenario = read_scenario(name)
        if sink is not None:
            scenario = msgspec.structs.replace(scenario, shape=msgspec.structs.replace(scenario.shape, sink=sink))
        console.print(scenario.about)
        with console.status("running"):
            found = run_scenario(scenario, seed, seconds)
    except (ScenarioError, ServerError, SinkError) as error:
        raise click.ClickException(str(error)) from error
    if isinstance(found, Saturation):
        limit = scenario.search.limit_ms
        console.print(f"{found.rate_per_s:,.0f} changes/s keep a p99 of {limit:g} ms; limited by {found.limited_by}")
    else:
        console.print(table_of(name, found))
    REPORTS.mkdir(exist_ok=True)
    path = REPORTS / f"scenario-{Path(name).stem}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    console.print(f"written to {path}")
    if isinstance(found, Trial) and not found.verdict.is_well:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
