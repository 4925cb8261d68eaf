"""A long run: nothing lost, memory flat, descriptors constant. ``make soak``, by ``scenarios/soak.toml``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.drive.keys import Keyspace
from benchmarks.drive.plan import Load
from benchmarks.drive.schedule import Arrivals
from benchmarks.judged.results import machine, now
from benchmarks.lag.histogram import Percentiles, merged
from benchmarks.measured.saturation import measure_saturation_rate
from benchmarks.measured.trial import Ground, Trial, ground
from benchmarks.scenarios.file import Scenario, ScenarioError, read_scenario
from benchmarks.stand.errors import FAILURES
from benchmarks.stand.harness import Rig
from benchmarks.stand.watch import Sample, Watch

REPORT = Path("reports/soak.json")
SAMPLE_S = 5.0
WARM_UP_PART = 0.2
"""Memory is looked at after this part of the run: pools and caches fill first."""
FLOOD, FLOOD_S = 4, 3.0
LEG_S = 30.0
"""A soak is many loads of this length, each judged whole, so that no log of it grows forever."""
SLOPE_SAMPLES_MAX = 1_000
FLAT_PER_HOUR = 0.05
"""A slope of less than this part of the memory an hour is flat."""


class Soak(msgspec.Struct, frozen=True):
    """What a soak showed. ``rss_slope_per_hour`` is the growth of memory an hour, as a part of it."""

    rate_per_s: float
    minutes: float
    changes: int
    lost: int
    stale: int
    invented: int
    gaps: int
    rss_slope_per_hour: float
    descriptors_min: int
    descriptors_max: int
    lag: Percentiles
    worst_leg: Percentiles
    samples: list[Sample]
    measured_at: str = ""
    restarts: int = 0
    machine: dict[str, str | int] = {}

    @property
    def is_flat(self) -> bool:
        """Tell whether memory does not grow."""
        return self.rss_slope_per_hour <= FLAT_PER_HOUR

    @property
    def is_well(self) -> bool:
        """Tell whether nothing was lost or wrong, no process died, memory is flat and descriptors are constant."""
        is_right = not (self.lost or self.stale or self.invented or self.restarts)
        return is_right and self.is_flat and self.descriptors_max == self.descriptors_min


def slope_per_hour(samples: list[Sample]) -> float:
    """Return the growth of memory an hour, as a part of its median: Theil and Sen's, which outliers do not move."""
    if len(samples) < 3:
        return 0.0
    # Every pair of them, of so many that they are soon done.
    thin = samples[:: max(1, len(samples) // SLOPE_SAMPLES_MAX)]
    at_s, memory = np.array([one.at_s for one in thin]), np.array([one.memory_mib for one in thin])
    first, later = np.triu_indices(len(thin), 1)
    apart = at_s[later] > at_s[first]
    slopes = (memory[later] - memory[first])[apart] / (at_s[later] - at_s[first])[apart]
    return round(float(np.median(slopes)) * 3_600 / float(np.median(memory)), 4)


def run_soak(place: Ground, load: Load, say: Callable[[Trial, int, int], None] = lambda *_: None) -> Soak:
    """Send a load for as long as it says, leg by leg; each leg's keys are compared before the next.

    Before them comes a flood: rings and pools are touched for the first time before memory is looked at. After each leg
    ``say`` is told of it, its number, and how many there are.
    """
    rate_per_s = load.arrivals.rate_per_s
    flood = Load(Arrivals(rate_per_s=FLOOD * rate_per_s), Keyspace(300_000), load.mix, FLOOD_S, load.seed)
    flooded = place.run(flood)
    place.forget()
    trials: list[Trial] = []
    watch = Watch(place.rig, SAMPLE_S)
    legs = max(1, round(load.seconds / LEG_S))
    for leg in range(legs):
        seconds = min(LEG_S, load.seconds)
        trials.append(place.run(msgspec.structs.replace(load, seconds=seconds, seed=load.seed + leg), watch))
        place.forget()
        say(trials[-1], leg + 1, legs)
    return _told(load, flooded, trials, place.rig, watch.samples)


def _told(load: Load, flooded: Trial, trials: list[Trial], rig: Rig, samples: list[Sample]) -> Soak:
    settled = [one for one in samples if one.at_s >= WARM_UP_PART * samples[-1].at_s] or samples
    everything = [flooded, *trials]
    return Soak(
        rate_per_s=load.arrivals.rate_per_s,
        minutes=round(sum(one.changes / one.wanted_per_s for one in trials) / 60, 2),
        changes=sum(one.changes for one in everything),
        lost=sum(one.verdict.lost + one.missing for one in everything),
        stale=sum(one.verdict.stale for one in everything),
        invented=sum(one.verdict.invented for one in everything),
        gaps=rig.totals()["gaps"],
        rss_slope_per_hour=slope_per_hour(settled),
        descriptors_min=min(one.descriptors for one in settled),
        descriptors_max=max(one.descriptors for one in settled),
        lag=merged(one.histogram for one in trials).percentiles(),
        worst_leg=max((one.lag for one in trials), key=lambda lag: lag.p99_ms),
        samples=samples,
        measured_at=now(),
        restarts=rig.restarts(),
        machine=machine(),
    )


@click.command()
@click.option("--minutes", type=click.FloatRange(0.1, 10_000), help="Another length than the scenario's.")
@click.option("--rate", type=click.FloatRange(1, 1_000_000), help="Changes a second (default: half of what saturates).")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
def main(minutes: float | None, rate: float | None, seed: int) -> None:
    """Run the engine for long at half of its saturation: nothing lost, memory flat, descriptors constant."""
    try:
        soak(read_scenario("soak"), seed, minutes and minutes * 60, rate)
    except FAILURES as error:
        raise click.ClickException(str(error)) from error


def soak(scenario: Scenario, seed: int, seconds: float | None = None, rate: float | None = None) -> None:
    """Run it, print and write what it showed; exit with 1 where that is not well. Raise `BenchmarkError`."""
    found = _measure(scenario, seed, seconds, rate)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    flat = "flat" if found.is_flat else "not flat"
    click.echo(
        f"{found.changes:,} changes: {found.lost} lost, {found.stale} stale, {found.invented} invented, "
        f"{found.gaps} gaps, {found.restarts} restarts; memory {found.rss_slope_per_hour:+.1%} an hour ({flat}); "
        f"descriptors {found.descriptors_min} to {found.descriptors_max}; "
        f"p99 {found.lag.p99_ms:.1f} ms, {found.worst_leg.p99_ms:.1f} in the worst leg; written to {REPORT}"
    )
    if not found.is_well:
        raise SystemExit(1)


def _measure(scenario: Scenario, seed: int, seconds: float | None, rate: float | None) -> Soak:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with ground(scenario.shape) as place, Progress(*columns) as progress:
        task = progress.add_task("the search for saturation", total=None)
        if rate is None:
            found = measure_saturation_rate(place, scenario.load(seed), scenario.search)
            rate = found.rate_per_s / 2
            progress.console.print(f"saturated at {found.rate_per_s:,.0f} changes/s by {found.limited_by}")
            place.forget()
        if not rate:
            raise ScenarioError("no rate holds the limit on this machine: name one with --rate")
        load = scenario.load(seed, seconds)
        load = msgspec.structs.replace(load, arrivals=msgspec.structs.replace(load.arrivals, rate_per_s=rate))
        progress.console.print(f"{load.seconds / 60:g} minutes at {rate:,.0f} changes/s")

        def say(trial: Trial, leg: int, legs: int) -> None:
            done = f"leg {leg} of {legs}: p99 {trial.lag.p99_ms:.1f} ms"
            progress.update(task, total=legs, completed=leg, description=done)
            if not progress.console.is_terminal:
                progress.console.print(done)

        return run_soak(place, load, say)


if __name__ == "__main__":
    main()
