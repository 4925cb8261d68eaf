"""A long run: nothing lost, memory flat, descriptors constant. ``make soak``."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import click
import msgspec
import psutil
from rich.console import Console

from benchmarks.accounting import descriptors
from benchmarks.drive.keys import Keyspace
from benchmarks.drive.schedule import Arrivals
from benchmarks.drive.sender import Load
from benchmarks.lag.histogram import Percentiles
from benchmarks.results import now
from benchmarks.saturation import Search, measure_saturation_rate
from benchmarks.servers import ServerError
from benchmarks.trial import Ground, Shape, Trial, ground

REPORT = Path("reports/soak.json")
SAMPLE_S = 5.0
WARM_UP_PART = 0.2
"""Memory is looked at after this part of the run: pools and caches fill first."""
FLOOD, FLOOD_S = 4, 3.0
LEG_S = 30.0
"""A soak is many loads of this length, each judged whole, so that no log of it grows for ever."""
FLAT_PER_HOUR = 0.05
"""A slope of less than this part of the memory an hour is flat."""


class Sample(msgspec.Struct, frozen=True):
    """One look at the engine's processes."""

    at_s: float
    memory_mib: float
    descriptors: int
    keys_waiting: int


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
    worst_leg: Percentiles
    samples: list[Sample]
    measured_at: str = ""

    @property
    def is_flat(self) -> bool:
        """Tell whether memory does not grow."""
        return self.rss_slope_per_hour <= FLAT_PER_HOUR


def slope_per_hour(samples: list[Sample]) -> float:
    """Return the growth of memory an hour, as a part of its median: Theil and Sen's, which outliers do not move."""
    if len(samples) < 3:
        return 0.0
    slopes = [
        (later.memory_mib - earlier.memory_mib) / (later.at_s - earlier.at_s)
        for place, earlier in enumerate(samples)
        for later in samples[place + 1 :]
        if later.at_s > earlier.at_s
    ]
    return round(statistics.median(slopes) * 3_600 / statistics.median(one.memory_mib for one in samples), 4)


def run_soak(place: Ground, rate_per_s: float, minutes: float, seed: int, say: Console | None = None) -> Soak:
    """Send at this rate for so many minutes, leg by leg; each leg's keys are compared before the next.

    Before them comes a flood: rings and pools are touched for the first time before memory is looked at.
    """
    flood = Load(Arrivals(rate_per_s=FLOOD * rate_per_s), Keyspace(300_000), seconds=FLOOD_S, seed=seed)
    flooded = place.run(flood)
    place.forget()
    samples: list[Sample] = []
    trials: list[Trial] = []
    began_s = time.monotonic()
    due = [began_s]

    def look() -> None:
        if time.monotonic() >= due[0]:
            due[0] = max(due[0] + SAMPLE_S, time.monotonic())
            samples.append(_sample(place, began_s))

    legs = max(1, round(minutes * 60 / LEG_S))
    for leg in range(legs):
        seconds = min(LEG_S, minutes * 60)
        load = Load(Arrivals("poisson", rate_per_s=rate_per_s), Keyspace(100_000), seconds=seconds, seed=seed + leg)
        trials.append(place.run(load, look))
        place.forget()
        if say is not None:
            lag = trials[-1].lag
            say.print(f"leg {leg + 1} of {legs}: p99 {lag.p99_ms:.1f} ms, {samples[-1].memory_mib:.0f} MiB")
    worst = max((one.lag for one in trials), key=lambda lag: lag.p99_ms)
    gaps = place.rig.totals()["gaps"]
    return _told(rate_per_s, minutes, [flooded, *trials], worst, gaps, samples)


def _told(
    rate_per_s: float, minutes: float, trials: list[Trial], worst: Percentiles, gaps: int, samples: list[Sample]
) -> Soak:
    settled = [one for one in samples if one.at_s >= WARM_UP_PART * samples[-1].at_s] or samples
    return Soak(
        rate_per_s,
        minutes,
        sum(one.changes for one in trials),
        sum(one.verdict.lost + one.missing for one in trials),
        sum(one.verdict.stale for one in trials),
        sum(one.verdict.invented for one in trials),
        gaps,
        slope_per_hour(settled),
        min(one.descriptors for one in settled),
        max(one.descriptors for one in settled),
        worst,
        samples,
        now(),
    )


def _sample(place: Ground, began_s: float) -> Sample:
    root = psutil.Process(place.rig.engine.pid)
    memory = sum(process.memory_full_info().pss for process in (root, *root.children(recursive=True)))
    totals = place.rig.totals()
    waiting = totals["keys_waiting"] + totals["keys_in_flight"] + totals["dirty_keys"]
    at_s = round(time.monotonic() - began_s, 1)
    return Sample(at_s, round(memory / 2**20, 2), descriptors(place.rig.engine.pid), waiting)


@click.command()
@click.option("--minutes", type=click.FloatRange(0.1, 10_000), default=20.0, show_default=True)
@click.option("--rate", type=click.FloatRange(1, 1_000_000), help="Changes a second (default: half of what saturates).")
@click.option("--seed", type=int, default=1, show_default=True)
def main(minutes: float, rate: float | None, seed: int) -> None:
    """Run the engine for long at half of its saturation: nothing lost, memory flat, descriptors constant."""
    try:
        _soak(minutes, rate, seed)
    except ServerError as error:
        raise click.ClickException(str(error)) from error


def _soak(minutes: float, rate: float | None, seed: int) -> None:
    console = Console()
    with ground(Shape()) as place:
        if rate is None:
            found = measure_saturation_rate(place, Keyspace(), Search(halvings=2), seed)
            rate = found.rate_per_s / 2
            console.print(f"saturated at {found.rate_per_s:,.0f} changes/s by {found.limited_by}")
            place.forget()
        if not rate:
            raise click.ClickException("no rate holds the limit on this machine: name one with --rate")
        console.print(f"{minutes:g} minutes at {rate:,.0f} changes/s")
        soak = run_soak(place, rate, minutes, seed, console)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_bytes(msgspec.json.format(msgspec.json.encode(soak)))
    flat = "flat" if soak.is_flat else "not flat"
    console.print(
        f"{soak.changes:,} changes: {soak.lost} lost, {soak.stale} stale, {soak.invented} invented, {soak.gaps} gaps; "
        f"memory {soak.rss_slope_per_hour:+.1%} an hour ({flat}); descriptors {soak.descriptors_min} to "
        f"{soak.descriptors_max}; worst p99 {soak.worst_leg.p99_ms:.1f} ms; written to {REPORT}"
    )
    if soak.lost or soak.stale or soak.invented or not soak.is_flat or soak.descriptors_max != soak.descriptors_min:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
