"""The load's own sender, with nobody watching the server: how many HSET/s one process sends, and what each costs it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.drive.driver import drive
from benchmarks.drive.plan import Load
from benchmarks.drive.schedule import Arrivals
from engine.sandbox.valkey import ValkeyServer

DUE_PER_S = 400_000.0
"""More than one process sends: it is never waiting for what is due."""


class Sending(NamedTuple):
    """HSETs that were answered a second, and CPU µs of the sender for each."""

    hset_per_s: float
    cpu_us: float


def measure_sending(seconds: float) -> Sending:
    """Have one sender send as fast as it can, on its one core."""
    load = Load(Arrivals(rate_per_s=DUE_PER_S), seconds=seconds)
    with ValkeyServer() as server, tempfile.TemporaryDirectory(prefix="drive-") as folder:
        sent = drive(server.port, load, Path(folder))
    return Sending(sent.rate_per_s, sent.cpu_s / len(sent.plan) * 1e6)


if __name__ == "__main__":
    print(measure_sending(2.0))
