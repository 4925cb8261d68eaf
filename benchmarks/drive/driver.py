"""A load at work: senders in processes of their own, and what they tell afterwards."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.drive.plan import Load, Plan, lay_out, shares_of
from benchmarks.drive.schedule import NS, Offsets
from benchmarks.drive.sender import Told, run_sender
from benchmarks.stand.errors import SenderFailed
from benchmarks.stand.load import Where

LATE_NS = 10_000_000
"""A command that is sent later than this was not on its schedule."""
KEPT_SHARE = 0.999
LEAD_NS = 20_000_000
"""From the last sender's word that it is ready to the beginning."""
_fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Sent:
    """What became of a plan.

    ``started_ns`` (monotonic) is the beginning. ``late_ns`` is of each change how late it was sent, ``answered_ns`` how
    long after it was due it was answered. ``cpu_s`` and ``switches`` are the senders' own: CPU time, context switches.
    """

    plan: Plan
    started_ns: int
    late_ns: npt.NDArray[np.int64]
    answered_ns: npt.NDArray[np.int64]
    cpu_s: float
    switches: int = 0

    @property
    def took_s(self) -> float:
        """Return the seconds from the beginning to the last answer."""
        return float((self.plan.offsets + self.answered_ns).max() / NS) if len(self.plan) else 0.0

    @property
    def rate_per_s(self) -> float:
        """Return how many changes a second were answered."""
        return len(self.plan) / self.took_s if len(self.plan) else 0.0

    @property
    def kept_schedule(self) -> bool:
        """Tell whether the sender did what it was told: if not, the figures are of another load."""
        return bool(np.mean(self.late_ns <= LATE_NS) >= KEPT_SHARE) if len(self.plan) else True


class Driver:
    """Senders at work, which begin at one moment, and end with the block; raise `SenderFailed` where one can't."""

    def __init__(self, where: Where, load: Load, folder: Path) -> None:
        self.plan = lay_out(load)
        self._told: dict[int, Told] = {}
        self._senders = [
            _Sender.start(where, load, self.plan, places, folder / f"sender-{number}.npy")
            for number, places in enumerate(shares_of(self.plan, load.senders))
        ]
        try:
            for sender in self._senders:
                sender.hear()
        except SenderFailed:
            self.close()
            raise
        self.started_ns = time.monotonic_ns() + LEAD_NS
        for sender in self._senders:
            sender.channel.send(self.started_ns)

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the senders, whatever they are at."""
        for sender in self._senders:
            sender.process.kill()
            sender.process.join()

    def is_over(self) -> bool:
        """Tell whether everything was answered; raise `SenderFailed`."""
        for number, sender in enumerate(self._senders):
            if number not in self._told and sender.channel.poll(0):
                self._told[number] = sender.hear()
        return len(self._told) == len(self._senders)

    def join(self) -> Sent:
        """Return when everything was answered; raise `SenderFailed`."""
        late_ns, answered_ns = (np.zeros(len(self.plan), np.int64) for _ in range(2))
        while not self.is_over():
            wait([sender.channel for number, sender in enumerate(self._senders) if number not in self._told])
        told = self._told.values()
        for sender in self._senders:
            sender.process.join()
            late_ns[sender.places], answered_ns[sender.places] = np.load(sender.file)
        cpu_s, switches = sum(one.cpu_s for one in told), sum(one.switches for one in told)
        return Sent(self.plan, self.started_ns, late_ns, answered_ns, cpu_s, switches)


class _Sender(NamedTuple):
    process: BaseProcess
    channel: Connection
    places: Offsets
    file: Path

    @classmethod
    def start(cls, where: Where, load: Load, plan: Plan, places: Offsets, file: Path) -> _Sender:
        ours, theirs = _fork.Pipe()
        arguments = (where, load.mix, plan, places, file, theirs, ours)
        process = _fork.Process(target=run_sender, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours, places, file)

    def hear(self) -> Told:
        """Return what the sender says next."""
        try:
            said = self.channel.recv()
        except EOFError:
            self.process.join()
            raise SenderFailed(f"the load's sender ended with {self.process.exitcode}") from None
        if isinstance(said, str):
            raise SenderFailed(f"the load's sender failed: {said}")
        assert isinstance(said, Told)
        return said


def drive(where: Where, load: Load, folder: Path) -> Sent:
    """Send a load and wait for its end; raise `SenderFailed`."""
    with Driver(where, load, folder) as driver:
        return driver.join()
