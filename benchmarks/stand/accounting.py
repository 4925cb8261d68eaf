"""What a run takes of the machine, by process: CPU, memory, context switches, descriptors, bytes on the wire."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import psutil

from benchmarks.drive.driver import Sent
from benchmarks.stand.harness import Rig
from benchmarks.stand.load import Where, info

ELSEWHERE = -1
"""In place of the process id of a server that is not ours: what it tells of itself is taken."""
ENGINE_ROLES = ("subscribers", "invokers", "supervisor")
ROLES = ("server", "subscribers", "invokers", "supervisor", "function")
"""Of the processes that are watched; the load's senders tell of themselves."""


class RoleCost(msgspec.Struct, frozen=True):
    """What the processes of one role took, a change: CPU in µs, context switches."""

    role: str
    cpu_us: float
    switches: float


class Accounts(msgspec.Struct, frozen=True):
    """What a run took. ``busy`` is the part of all cores that was used by anybody, the load's sender too."""

    roles: list[RoleCost]
    server_in_bytes: float
    server_out_bytes: float
    """A change, over the server's connections: in, and out to applications and engine."""
    busy: float
    fullest_role: str
    fullest_share: float
    """The process that used most of one core, and how much of it."""

    def cpu_us(self, *roles: str) -> float:
        """Return the CPU of these roles together."""
        return sum(one.cpu_us for one in self.roles if one.role in roles)


class Use(NamedTuple):
    """While a load was sent: the part of all cores that was busy, and the process that used most of one."""

    busy: float
    fullest_role: str
    fullest_share: float


@dataclass
class _Seen:
    cpu_s: dict[int, float] = field(default_factory=dict)
    switches: dict[int, int] = field(default_factory=dict)


class Meter:
    """Reads the machine when it is made, and again when asked."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._roles = dict(_roles(rig))
        self._before = self._look()
        self._wire_before = wire_bytes(rig.redis)
        self._times = psutil.cpu_times()

    def use(self, took_s: float) -> Use:
        """Return how much was in use so far, while a load was sent for so long."""
        cpu, times = self._cpu_s(self._look()), psutil.cpu_times()
        fullest = max(cpu, key=cpu.__getitem__)
        idle = (times.idle - self._times.idle) + (getattr(times, "iowait", 0.0) - getattr(self._times, "iowait", 0.0))
        total = sum(times) - sum(self._times)
        busy = round(1 - idle / total, 3) if total else 0.0
        return Use(busy, self._roles[fullest], round(cpu[fullest] / took_s, 3) if took_s else 0.0)

    def _cpu_s(self, now: _Seen) -> dict[int, float]:
        return {pid: now.cpu_s.get(pid, before) - before for pid, before in self._before.cpu_s.items()}

    def accounts(self, sent: Sent, use: Use) -> Accounts:
        """Return what was taken since, a change of what was sent; to be called when all of it was delivered."""
        changes = max(1, len(sent.plan))
        now, wire = self._look(), wire_bytes(self._rig.redis)
        cpu = self._cpu_s(now)
        switches = {pid: now.switches.get(pid, before) - before for pid, before in self._before.switches.items()}
        roles = []
        for role in ROLES:
            pids = [pid for pid in cpu if self._roles[pid] == role]
            cpu_us = sum(cpu[pid] for pid in pids) / changes * 1e6
            switched = sum(switches.get(pid, 0) for pid in pids) / changes
            roles.append(RoleCost(role, round(cpu_us, 3), round(switched, 4)))
        roles.append(RoleCost("load", round(sent.cpu_s / changes * 1e6, 3), round(sent.switches / changes, 4)))
        return Accounts(
            roles,
            round((wire[0] - self._wire_before[0]) / changes, 1),
            round((wire[1] - self._wire_before[1]) / changes, 1),
            *use,
        )

    def _look(self) -> _Seen:
        seen = _Seen()
        for pid in self._roles:
            if pid == ELSEWHERE:
                facts = info(self._rig.redis, "cpu")
                seen.cpu_s[pid] = float(facts["used_cpu_sys"]) + float(facts["used_cpu_user"])
                continue
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                times, switched = process.cpu_times(), process.num_ctx_switches()
                seen.cpu_s[pid] = times.user + times.system
                seen.switches[pid] = switched.voluntary + switched.involuntary
        return seen


def _roles(rig: Rig) -> Iterable[tuple[int, str]]:
    yield rig.server_pid or ELSEWHERE, "server"
    for process in psutil.Process(rig.engine.pid).children(recursive=True):
        title = title_of(process)
        child = "subscribers" if "subscriber" in title else "invokers" if "invoker" in title else "supervisor"
        yield process.pid, child
    yield rig.engine.pid, "supervisor"
    if not rig.runtime_pid:
        return
    runtime = psutil.Process(rig.runtime_pid)
    for process in (runtime, *runtime.children(recursive=True)):
        yield process.pid, "function"


def title_of(process: psutil.Process) -> str:
    """Return a process's command line, which ours set; nothing of one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wire_bytes(where: Where) -> tuple[int, int]:
    """Return what the server has read and written over all connections."""
    facts = info(where, "stats")
    return int(facts["total_net_input_bytes"]), int(facts["total_net_output_bytes"])


def own_memory(pid: int) -> int:
    """Return the bytes that only this process has."""
    return int(psutil.Process(pid).memory_full_info().uss)


def descriptors(engine_pid: int) -> int:
    """Return how many descriptors the engine's processes hold together."""
    root = psutil.Process(engine_pid)
    return sum(process.num_fds() for process in (root, *root.children(recursive=True)))
