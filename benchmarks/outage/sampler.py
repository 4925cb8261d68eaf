"""Once a second: what the engine takes and does, seen from outside."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hiredis
import msgspec
import orjson
import psutil

from benchmarks.outage.load import count_keys
from benchmarks.stand.load import connect

INTERVAL_S = 1.0
MIB = 1 << 20


class Sample(msgspec.Struct):
    """One moment. ``at_s`` counts from the beginning of the outage; rates are of the second before.

    ``memory_mib`` is the engine's whole: proportional shares, so that what processes share counts once.
    ``distinct_keys`` are those in Redis; ``ring_bytes`` what is in the rings and not released.
    ``live_ms_p50`` and ``live_ms_p99`` are the healthy route's lag in that second; None if nothing was written.
    """

    at_s: float
    phase: str
    memory_mib: float
    supervisor_mib: float
    subscribers_mib: float
    invokers_mib: float
    cpu_cores: float
    distinct_keys: int
    written_per_s: float
    events_per_s: float
    delivered_per_s: float
    invocations_per_s: float
    failed_per_s: float
    backlog_keys: int
    backlog_bytes: int
    ring_bytes: int
    dirty_keys: int
    keys_waiting: int
    keys_in_flight: int
    events_dropped: int
    gaps: int
    settled_until_ms: int
    live_ms_p50: float | None = None
    live_ms_p99: float | None = None


def memory_of(engine_pid: int) -> dict[str, float]:
    """Return MiB by role: supervisor (with its short-lived helpers), subscribers, invokers.

    Linux's proportional set size: a page that n processes share counts a n-th for each. Elsewhere what is unique.
    """
    root = psutil.Process(engine_pid)
    shares = {"supervisor": 0.0, "subscribers": 0.0, "invokers": 0.0}
    for process in (root, *root.children(recursive=True)):
        # A helper may have ended meanwhile.
        with contextlib.suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            info = process.memory_full_info()
            role = "subscribers" if "subscriber" in title else "invokers" if "invoker" in title else "supervisor"
            shares[role] += getattr(info, "pss", info.uss) / MIB
    return shares


def folder_bytes(folder: Path) -> int:
    """Return what the files of a folder take; one that vanishes meanwhile takes nothing."""
    total = 0
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


class Sampler:
    """Takes samples in a thread of its own, until it is stopped; ``phase`` is what they are marked with."""

    def __init__(self, engine_pid: int, status_file: Path, backlog: Path, port: int, written: Callable[[], int]):
        self.samples: list[Sample] = []
        self.phase = "before"
        self.outage_began_s = 0.0
        """Monotonic; set before the report is made of the samples."""
        self.moments_s: list[float] = []
        self._engine_pid, self._status_file, self._backlog = engine_pid, status_file, backlog
        self._sock, self._reader, self._written = connect(port), hiredis.Reader(), written
        self._stopping = threading.Event()
        self._before: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self.problem: Exception | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; times then count from the beginning of the outage."""
        self._stopping.set()
        self._thread.join()
        self._sock.close()
        for sample, moment_s in zip(self.samples, self.moments_s, strict=True):
            sample.at_s = round(moment_s - self.outage_began_s, 2)

    @property
    def newest(self) -> Sample | None:
        """Return the last sample."""
        if self.problem is not None:
            raise self.problem
        return self.samples[-1] if self.samples else None

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._stopping.wait(max(0.0, due_s - time.monotonic())):
            due_s = max(due_s + INTERVAL_S, time.monotonic())
            try:
                self._take()
            except Exception as error:
                self.problem = error
                return

    def _take(self) -> None:
        status: dict[str, Any] = orjson.loads(self._status_file.read_bytes())
        totals: dict[str, int] = status["totals"]
        memory = memory_of(self._engine_pid)
        moment_s = time.monotonic()
        now = {
            "status_s": status["updated_at_ms"] / 1_000,
            "moment_s": moment_s,
            "cpu_s": _cpu_s(self._engine_pid),
            "written": float(self._written()),
            **{name: float(value) for name, value in totals.items()},
        }
        before, self._before = self._before, now
        if not before or now["status_s"] <= before["status_s"]:
            if before:
                self._before = before
            return

        def rate(name: str, clock: str = "status_s") -> float:
            return float(round((now[name] - before[name]) / (now[clock] - before[clock]), 2))

        self.moments_s.append(moment_s)
        self.samples.append(
            Sample(
                at_s=0.0,
                phase=self.phase,
                memory_mib=round(sum(memory.values()), 1),
                supervisor_mib=round(memory["supervisor"], 1),
                subscribers_mib=round(memory["subscribers"], 1),
                invokers_mib=round(memory["invokers"], 1),
                cpu_cores=rate("cpu_s", "moment_s"),
                distinct_keys=count_keys(self._sock, self._reader),
                written_per_s=rate("written", "moment_s"),
                events_per_s=rate("events_read"),
                delivered_per_s=rate("records_delivered"),
                invocations_per_s=rate("invocations"),
                failed_per_s=rate("invocations_failed"),
                backlog_keys=totals["keys_backlog"],
                backlog_bytes=folder_bytes(self._backlog),
                ring_bytes=sum(child["ring_bytes_waiting"] for child in status["children"]),
                dirty_keys=totals["dirty_keys"],
                keys_waiting=totals["keys_waiting"],
                keys_in_flight=totals["keys_in_flight"],
                events_dropped=totals["events_dropped"],
                gaps=totals["gaps"],
                settled_until_ms=status["settled_until_ms"],
            )
        )


def _cpu_s(engine_pid: int) -> float:
    root = psutil.Process(engine_pid)
    used_s = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used_s += float(times.user + times.system)
    return used_s
