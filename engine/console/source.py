"""What the console knows: the status file, the counters in shared memory, and what the system says of the processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import psutil

from engine.errors import EngineError
from engine.observe.status import read_status
from engine.ring.counters import StatusRow, totals
from engine.ring.lags import EMPTY, Stage

FRESH_MS = 500
"""A status is read again once it is older: it is written once a second."""


class Usage(NamedTuple):
    """What a process has used, and holds."""

    process: str
    cpu_s: float
    memory_bytes: int


class Source:
    """The status, read at most twice a second however many ask.

    ``rows`` are the counters of the engine whose child this process is, one for each child of the status, in its order.
    """

    def __init__(self, status_file: str, now_ms: Callable[[], int], rows: Sequence[StatusRow] = ()) -> None:
        self._status_file = status_file
        self._rows = rows
        self._now_ms = now_ms
        self._read_ms = 0
        self._status: Mapping[str, Any] | None = None
        self._used_ms = -1
        self._usages: tuple[Usage, ...] = ()

    def status(self) -> Mapping[str, Any] | None:
        """Return the status, None if no engine runs, or none that writes it."""
        now_ms = self._now_ms()
        if not 0 <= now_ms - self._read_ms < FRESH_MS:
            self._read_ms = now_ms
            try:
                self._status = read_status(self._status_file, now_ms)
            except EngineError:
                self._status = None
        return self._status

    def latest(self) -> Mapping[str, Any] | None:
        """Return the status with the counters and lags of this moment, wherever they can be read."""
        status = self.status()
        if status is None or not self._rows or status["pid"] != os.getppid():
            return status
        return with_counts_of(self._rows, status)

    def usages(self) -> tuple[Usage, ...]:
        """Return what each process of the engine uses, the console among them; none where no engine runs."""
        status = self.status()
        if self._used_ms != self._read_ms:
            self._used_ms = self._read_ms
            self._usages = tuple(usages_of(status)) if status is not None else ()
        return self._usages


def with_counts_of(rows: Sequence[StatusRow], status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a status with what these rows count now; all else is of the moment at which it was written."""
    children = [
        {**child, "counters": row.snapshot(), "gaps": row.gaps(), "batch_sizes": row.batch_sizes()}
        for child, row in zip(status["children"], rows, strict=True)
    ]
    lags = {}
    for stage in Stage:
        lag = sum((row.lags.read(stage) for row in rows), EMPTY)
        lags[stage.name.lower()] = {"sum_ms": lag.sum_ms, "buckets": lag.pairs()}
    return {**status, "children": children, "totals": totals(rows), "lag": lags}


def usages_of(status: Mapping[str, Any]) -> Iterator[Usage]:
    """Yield what each process of this status uses, and this one, which is the console."""
    processes = {"supervisor": status["pid"], **{child["name"]: child["pid"] for child in status["children"]}}
    for name, pid in (*processes.items(), ("console", os.getpid())):
        if not pid:
            continue
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                times = process.cpu_times()
                yield Usage(name, times.user + times.system, process.memory_info().rss)
        except psutil.Error:
            # It has ended since the status was written.
            continue
