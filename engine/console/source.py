"""What the console knows: the status file, and what the system says of the engine's processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import psutil

from engine.errors import EngineError
from engine.observe.status import read_status

FRESH_MS = 500
"""A status is read again once it is older: it is written once a second."""


class Usage(NamedTuple):
    """What a process has used, and holds."""

    process: str
    cpu_s: float
    memory_bytes: int


class Source:
    """The status, read at most twice a second however many ask."""

    def __init__(self, status_file: str, now_ms: Callable[[], int]) -> None:
        self._status_file = status_file
        self._now_ms = now_ms
        self._read_ms = 0
        self._status: Mapping[str, Any] | None = None
        self._used_ms = -1
        self._usages: tuple[Usage, ...] = ()

    def status(self) -> Mapping[str, Any] | None:
        """Return the status, None where no engine runs, or none that writes it."""
        now_ms = self._now_ms()
        if not 0 <= now_ms - self._read_ms < FRESH_MS:
            self._read_ms = now_ms
            try:
                self._status = read_status(self._status_file, now_ms)
            except EngineError:
                self._status = None
        return self._status

    def usages(self) -> tuple[Usage, ...]:
        """Return what each process of the engine uses, the console among them; none where no engine runs."""
        status = self.status()
        if self._used_ms != self._read_ms:
            self._used_ms = self._read_ms
            self._usages = tuple(usages_of(status)) if status is not None else ()
        return self._usages


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
