"""The highest rate at which the lag stays within a limit, found by doubling and halving; and what limits it."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from benchmarks.drive.plan import Load
from benchmarks.drive.schedule import RATE_PER_S_MAX, Arrivals
from benchmarks.measured.trial import During, Ground, Trial

FULL = 0.95
"""A process that uses this much of a core has nothing left."""
HOST_FULL = 0.9
"""So has a host that is used this much: a run's first and last moments count too."""
CROWDED = 0.8
"""A host that is used this much on average, and whose load's sender comes late, has had nothing left at times."""


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How it is searched: from which rate, for how long a trial, and how often halved.

    A rate is given up on only after ``tries`` that did not hold: what the machine did meanwhile is no limit of ours.
    """

    from_rate_per_s: float = 20_000.0
    limit_ms: float = 250.0
    seconds: float = 4.0
    halvings: int = 3
    tries: int = 2
    rate_per_s_max: float = 1_000_000.0


class BadSearch(ValueError):
    """A search that can't be; the message says why."""


def check(search: Search) -> None:
    """Raise `BadSearch` where it can't be."""
    if not 1 <= search.from_rate_per_s <= search.rate_per_s_max <= RATE_PER_S_MAX / 2:
        raise BadSearch(f"search: rates from 1 to {RATE_PER_S_MAX / 2:,.0f} are allowed, the highest being the last")
    if not (search.limit_ms > 0 and 0.1 <= search.seconds <= 600):
        raise BadSearch("search: a limit_ms of more than 0, and seconds from 0.1 to 600, are allowed")
    if not (0 <= search.halvings <= 20 and 1 <= search.tries <= 10):
        raise BadSearch("search: halvings from 0 to 20, and tries from 1 to 10, are allowed")


class Saturation(msgspec.Struct, frozen=True):
    """What was found: ``rate_per_s`` is the highest that held, 0 if none did; all ``trials`` in order."""

    rate_per_s: float
    limited_by: str
    trials: list[Trial]

    @property
    def is_found(self) -> bool:
        """Tell whether any rate held."""
        return self.rate_per_s > 0

    @property
    def reason(self) -> str:
        """Return why none was found."""
        if not self.trials:
            return "nothing was tried"
        last = min(self.trials, key=lambda one: one.wanted_per_s)
        told = f"lag p99 {last.lag.p99_ms:,.0f} ms" if not last.wrong else f"{last.wrong:,} changes wrong"
        return f"not even {last.wanted_per_s:,.0f} changes/s held ({told}); limited by {self.limited_by}"


def holds(trial: Trial, limit_ms: float) -> bool:
    """Tell whether a trial's lag stayed within the limit, with nothing lost, stale or invented.

    Lag counts from when a change was due, so that a sender that comes late makes it more, never less.
    """
    return trial.is_well and trial.lag.count > 0 and trial.lag.p99_ms <= limit_ms


def search_rate(run: Callable[[float], Trial], search: Search) -> Saturation:
    """Double the rate until it does not hold, then halve what lies between."""
    trials: list[Trial] = []

    def try_rate(rate_per_s: float) -> bool:
        for _ in range(search.tries):
            trials.append(run(rate_per_s))
            if holds(trials[-1], search.limit_ms):
                return True
        return False

    low, high = 0.0, search.from_rate_per_s
    while try_rate(high):
        low, high = high, 2 * high
        if high > search.rate_per_s_max:
            return Saturation(low, "the search's own bound", trials)
    for _ in range(search.halvings):
        middle = (low + high) / 2
        if try_rate(middle):
            low = middle
        else:
            high = middle
    # What held at its second try is none of these; a whole number of changes may be a little more than the rate.
    above = [one for one in trials if one.wanted_per_s > 1.001 * low and not holds(one, search.limit_ms)]
    failed = min(above, key=lambda one: one.wanted_per_s)
    return Saturation(round(low), limit_of(failed), trials)


def limit_of(trial: Trial) -> str:
    """Return what had nothing left in a trial that did not hold."""
    accounts = trial.accounts
    if accounts.busy >= HOST_FULL or (accounts.busy >= CROWDED and not trial.kept_schedule):
        by = ", ".join(f"{one.role} {one.cpu_us:.1f} µs" for one in accounts.roles)
        return (
            f"the host: its {os.cpu_count()} cores are {accounts.busy:.0%} used by all that runs on it ({by} a change)"
        )
    if accounts.fullest_share >= FULL:
        return f"one process of the {accounts.fullest_role}, which uses {accounts.fullest_share:.0%} of a core"
    if not trial.kept_schedule:
        return "the load's sender, which could not keep its schedule"
    return f"the engine: the host was {accounts.busy:.0%} used, and no process filled a core"


def measure_saturation_rate(place: Ground, load: Load, search: Search, during: During | None = None) -> Saturation:
    """Search on a running path, with loads like this one at rates of their own.

    ``during`` is called again and again while a load is sent.
    """

    def run(rate_per_s: float) -> Trial:
        place.forget()
        arrivals = Arrivals(rate_per_s=rate_per_s)
        return place.run(msgspec.structs.replace(load, arrivals=arrivals, seconds=search.seconds), during)

    return search_rate(run, search)
