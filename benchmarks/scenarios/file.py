"""Scenarios as files that users edit: what each says, and what is wrong with one that can't be run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from benchmarks.drive.commands import BadMix, Mix
from benchmarks.drive.keys import BadKeyspace, Keyspace
from benchmarks.drive.plan import BadLoad, Load, lay_out
from benchmarks.drive.schedule import Arrivals, BadArrivals
from benchmarks.measured.saturation import BadSearch, Search, check
from benchmarks.measured.trial import Shape
from benchmarks.stand.errors import BenchmarkError

FOLDER = Path(__file__).parent
SECONDS_MAX = 86_400.0
OUTAGE_S_MAX = 55


class Outage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how long the function answers nothing, and when that begins."""

    from_s: float
    seconds: float


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One scenario: what is sent, to what, and whether the function goes away meanwhile.

    ``kind`` ``load`` sends it once; ``saturation`` searches the highest rate that keeps the limit of ``search``;
    ``soak`` does so, and sends half of that for all of ``seconds`` (`benchmarks.measured.soak`).
    ``senders`` processes share a load.
    """

    about: str
    kind: Literal["load", "saturation", "soak"] = "load"
    seconds: float = 10.0
    shape: Shape = msgspec.field(default_factory=Shape)
    arrivals: Arrivals = msgspec.field(default_factory=Arrivals)
    keyspace: Keyspace = msgspec.field(default_factory=Keyspace)
    mix: Mix = msgspec.field(default_factory=Mix)
    search: Search = msgspec.field(default_factory=Search)
    outage: Outage | None = None
    senders: int = 1

    def load(self, seed: int, seconds: float | None = None) -> Load:
        """Return what is sent."""
        return Load(self.arrivals, self.keyspace, self.mix, seconds or self.seconds, seed, self.senders)


class ScenarioError(BenchmarkError):
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
    if not 0 < scenario.seconds <= SECONDS_MAX:
        raise ScenarioError(f"{path}: seconds is {scenario.seconds:g}: more than 0, at most a day, is allowed")
    try:
        lay_out(msgspec.structs.replace(scenario.load(1), seconds=min(1.0, scenario.seconds)))
        check(scenario.search)
    except (BadArrivals, BadKeyspace, BadLoad, BadMix, BadSearch) as error:
        raise ScenarioError(f"{path}: {error}") from error
    try:
        check_outage(scenario, scenario.seconds)
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from error
    return scenario


def check_outage(scenario: Scenario, seconds: float) -> None:
    """Raise `ScenarioError` if the outage does not lie within so many seconds."""
    outage = scenario.outage
    if outage is None:
        return
    if scenario.kind != "load" or scenario.shape.sink == "aws":
        raise ScenarioError("outage: only a load has one, to a function that runs here")
    if not (outage.from_s >= 0 and 0 < outage.seconds < OUTAGE_S_MAX):
        raise ScenarioError(
            f"outage: from 0 s on, for less than {OUTAGE_S_MAX} s, before invocations time out, is allowed"
        )
    if outage.from_s + outage.seconds >= seconds:
        raise ScenarioError(
            f"outage: it ends after {outage.from_s + outage.seconds:g} s, and the load after {seconds:g}: a longer "
            "load shows how it is caught up"
        )
