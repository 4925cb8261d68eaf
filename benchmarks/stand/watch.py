"""The engine's memory and descriptors over the time of a run."""

from __future__ import annotations

import contextlib
import time

import msgspec
import psutil

from benchmarks.stand.accounting import descriptors
from benchmarks.stand.harness import Rig

LOOKS, LOOK_S = 3, 0.01


class Sample(msgspec.Struct, frozen=True):
    """One look at the engine's processes: their memory (proportional: what is shared counts once), what waits."""

    at_s: float
    memory_mib: float
    descriptors: int
    keys_waiting: int


class Watch:
    """Looks every so many seconds, whenever it is called that is due."""

    def __init__(self, rig: Rig, every_s: float) -> None:
        self.samples: list[Sample] = []
        self._rig, self._every_s = rig, every_s
        self._began_s = self._due_s = time.monotonic()

    def __call__(self, _: float = 0.0) -> None:
        """Look, if it is time to."""
        moment_s = time.monotonic()
        if moment_s >= self._due_s:
            self._due_s = max(self._due_s + self._every_s, moment_s)
            # A child that has just ended is no reason to lose the run.
            with contextlib.suppress(psutil.Error):
                self.samples.append(self._look())

    def _look(self) -> Sample:
        root = psutil.Process(self._rig.engine.pid)
        memory = sum(process.memory_full_info().pss for process in (root, *root.children(recursive=True)))
        totals = self._rig.totals()
        waiting = totals["keys_waiting"] + totals["keys_in_flight"] + totals["dirty_keys"]
        at_s = round(time.monotonic() - self._began_s, 1)
        return Sample(at_s, round(memory / 2**20, 2), self._descriptors(), waiting)

    def _descriptors(self) -> int:
        """Return the least of some looks: a file that is just being written is open for a moment, what leaks stays."""
        seen = []
        for _ in range(LOOKS):
            seen.append(descriptors(self._rig.engine.pid))
            time.sleep(LOOK_S)
        return min(seen)
