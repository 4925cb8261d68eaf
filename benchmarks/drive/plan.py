"""A load, and what it says command by command: when each is due, its key, its kind.  (pure)"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.drive import commands, keys, schedule
from benchmarks.drive.commands import Mix
from benchmarks.drive.keys import KeyNumbers, Keyspace
from benchmarks.drive.schedule import Arrivals, Offsets

SENDERS_MAX = 64


class BadLoad(ValueError):
    """A load that can't be; the message says why."""


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one run sends; the same for the same seed, whatever number of ``senders`` (processes) send it."""

    arrivals: Arrivals = msgspec.field(default_factory=Arrivals)
    keyspace: Keyspace = msgspec.field(default_factory=Keyspace)
    mix: Mix = msgspec.field(default_factory=Mix)
    seconds: float = 10.0
    seed: int = 1
    senders: int = 1


@dataclass(frozen=True)
class Plan:
    """A load, laid out: of each change when it is due (ns from the beginning), its key's number, and its kind."""

    offsets: Offsets
    key_numbers: KeyNumbers
    kinds: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.offsets)


def lay_out(load: Load) -> Plan:
    """Return the plan; raise `BadArrivals`, `BadKeyspace`, `BadMix` or `BadLoad`."""
    if not 1 <= load.senders <= SENDERS_MAX:
        raise BadLoad(f"senders: from 1 to {SENDERS_MAX} is allowed")
    commands.check(load.mix)
    # Streams of their own: more changes do not make other keys of the first ones.
    streams = np.random.default_rng(load.seed).spawn(3)
    offsets = schedule.offsets_of(load.arrivals, load.seconds, streams[0])
    names, weights = commands.weights(load.mix)
    shares = np.cumsum(weights) / sum(weights)
    kinds = np.searchsorted(shares, streams[2].random(len(offsets)), side="right").astype(np.uint8)
    numbers = keys.pick(load.keyspace, len(offsets), streams[1])
    numbers[kinds == names.index("string")] += commands.STRINGS_FROM
    return Plan(offsets, numbers, kinds)


def shares_of(plan: Plan, senders: int) -> list[Offsets]:
    """Return the places in the plan of each sender's changes: all of a key's are one sender's, and stay in order."""
    if senders == 1:
        return [np.arange(len(plan))]
    owners = plan.key_numbers % senders
    return [np.flatnonzero(owners == sender) for sender in range(senders)]
