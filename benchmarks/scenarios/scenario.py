"""Scenarios: loads with names, from files that users edit. ``make scenario NAME=steady``."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import get_args

import click
import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.lag.timeline import Window, bursts_of, left_at_s, recoveries
from benchmarks.measured.saturation import Saturation, measure_saturation_rate
from benchmarks.measured.soak import soak
from benchmarks.measured.trial import During, Trial, ground
from benchmarks.scenarios.file import SECONDS_MAX, Outage, Scenario, check_outage, read_scenario
from benchmarks.stand.errors import FAILURES
from benchmarks.stand.sinks import SinkName

REPORTS = Path("reports")


def run_scenario(scenario: Scenario, seed: int, seconds: float | None = None) -> Trial | Saturation:
    """Run it on parts of its own; return what it showed; raise `BenchmarkError`."""
    check_outage(scenario, seconds or scenario.seconds)
    load = scenario.load(seed, seconds)
    with ground(scenario.shape) as place:
        if scenario.kind == "saturation":
            return measure_saturation_rate(place, load, scenario.search)
        if scenario.outage is None:
            return place.run(load)
        with _cut_off(place.rig.runtime_pid, scenario.outage) as during:
            return place.run(load, during)


@contextmanager
def _cut_off(runtime_pid: int, outage: Outage) -> Iterator[During]:
    """Give what stops the function's runtime for the time of the outage; it goes on at the end, whatever happens."""
    is_stopped = [False]

    def tell(*, stop: bool) -> None:
        is_stopped[0] = stop
        runtime = psutil.Process(runtime_pid)
        for process in (runtime, *runtime.children(recursive=True)):
            with suppress(psutil.Error):
                process.send_signal(signal.SIGSTOP if stop else signal.SIGCONT)

    def look(at_s: float) -> None:
        is_due = outage.from_s <= at_s < outage.from_s + outage.seconds
        if is_due is not is_stopped[0]:
            tell(stop=is_due)

    try:
        yield look
    finally:
        if is_stopped[0]:
            tell(stop=False)


def windows_of(scenario: Scenario, seconds: float) -> list[Window]:
    """Return the parts of a run that its bursts or its outage disturb."""
    outage = scenario.outage
    if outage is not None:
        return [Window(outage.from_s, outage.from_s + outage.seconds, seconds)]
    return list(bursts_of(scenario.arrivals, seconds))


def ramp_of(scenario: Scenario, seconds: float, trial: Trial) -> str:
    """Return the rate at which a ramp's lag left the limit; nothing if the rate does not grow."""
    arrivals, limit_ms = scenario.arrivals, scenario.search.limit_ms
    if arrivals.kind != "ramp" or not trial.moments:
        return ""
    at_s = left_at_s(trial.moments, limit_ms)
    if at_s is None:
        return f"the p99 of the lag stayed within {limit_ms:g} ms up to {arrivals.rate_per_s:,.0f} changes/s"
    rate = arrivals.from_rate_per_s + (arrivals.rate_per_s - arrivals.from_rate_per_s) * at_s / seconds
    return f"the p99 of the lag left {limit_ms:g} ms at {rate:,.0f} changes/s"


def recovery_of(scenario: Scenario, seconds: float, trial: Trial) -> str:
    """Return how long it took to work off what was disturbed; nothing if nothing was."""
    if not trial.moments:
        return ""
    windows, limit_ms = windows_of(scenario, seconds), scenario.search.limit_ms
    if windows and trial.lag.max_ms <= limit_ms:
        return f"the lag stayed within {limit_ms:g} ms"
    found = recoveries(trial.moments, windows, limit_ms)
    what = "the outage" if scenario.outage is not None else "each burst"
    told = ", ".join(f"{one:.1f}" for one in found)
    return f"{told} s after {what} the last change over {limit_ms:g} ms had arrived" if told else ""


def table_of(name: str, trial: Trial, ramp: str = "", recovery: str = "") -> Table:
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
    for title, said in (("ramp", ramp), ("recovery", recovery)):
        if said:
            table.add_row(title, said)
    table.add_row("delivered", f"{trial.records:,} records, {trial.records_per_invocation:,.1f} an invocation")
    cpu = ", ".join(f"{one.role} {one.cpu_us:.1f}" for one in accounts.roles)
    table.add_row("CPU", f"{cpu} µs a change; {accounts.busy:.0%} of all cores")
    switches = ", ".join(f"{one.role} {one.switches:.2f}" for one in accounts.roles)
    table.add_row("switches", f"{switches} a change")
    wire = f"{accounts.server_in_bytes:.0f} bytes to Redis, {accounts.server_out_bytes:.0f} from it"
    table.add_row("wire", f"{wire}, {trial.payload_bytes:.0f} to the function a change")
    return table


@click.command()
@click.argument("name", default="steady")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
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
        if scenario.kind == "soak":
            soak(scenario, seed, seconds)
            return
        with console.status("running"):
            found = run_scenario(scenario, seed, seconds)
    except FAILURES as error:
        raise click.ClickException(str(error)) from error
    if isinstance(found, Saturation) and not found.is_found:
        console.print(f"no saturation was found: {found.reason}")
    elif isinstance(found, Saturation):
        limit = scenario.search.limit_ms
        console.print(f"{found.rate_per_s:,.0f} changes/s keep a p99 of {limit:g} ms; limited by {found.limited_by}")
    else:
        told = (scenario, seconds or scenario.seconds, found)
        console.print(table_of(name, found, ramp_of(*told), recovery_of(*told)))
    REPORTS.mkdir(exist_ok=True)
    path = REPORTS / f"scenario-{Path(name).stem}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    console.print(f"written to {path}")
    trials = [found] if isinstance(found, Trial) else found.trials
    is_found = isinstance(found, Trial) or found.is_found
    if not (is_found and all(one.is_well for one in trials)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
