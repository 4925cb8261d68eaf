"""What a server's own figures mean for an engine that listens to it.  (pure)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from engine.supervision.errands.findings import Finding, Verdict, finding
from engine.text import counted

STALL_S_MIN = 15.0
"""A subscriber that is killed and replaced, or a host that is busy, stalls for a few seconds."""
CLOCK_MS_MAX = 1_000
MEMORY_FULL = 0.9
MIB = 1 << 20


class OutputLimit(NamedTuple):
    """``client-output-buffer-limit pubsub``: bytes at once, and bytes for a number of seconds; 0 is no limit."""

    hard_bytes: int
    soft_bytes: int
    soft_s: int

    def stall_s(self, bytes_per_s: float) -> float:
        """Return how long a client may read nothing at this rate before it is cut off."""
        times = [float("inf")]
        if self.hard_bytes:
            times.append(self.hard_bytes / bytes_per_s)
        if self.soft_bytes:
            times.append(self.soft_bytes / bytes_per_s + self.soft_s)
        return min(times)


def output_limit(text: str) -> OutputLimit | None:
    """Return the limit for subscribers in the value of ``client-output-buffer-limit``; None if there is none."""
    words = text.split()
    for place in range(0, len(words) - 3, 4):
        if words[place] == "pubsub" and all(word.isdigit() for word in words[place + 1 : place + 4]):
            return OutputLimit(*(int(word) for word in words[place + 1 : place + 4]))
    return None


def about_output(limit: OutputLimit | None, bytes_per_s: float | None, place: str) -> Finding:
    """Return how long a stall the subscription survives at the rate that was measured."""
    if limit is None:
        hint = "see its parameter group: client-output-buffer-limit-pubsub-hard-limit"
        return finding(Verdict.OK, place, f"its output-buffer limit for subscribers is unknown ({hint})")
    if bytes_per_s is None:
        return finding(
            Verdict.OK, place, "its notifications were not measured: this user may not subscribe to all channels"
        )
    if not bytes_per_s:
        return finding(Verdict.OK, place, "nothing changed while notifications were measured: no rate to judge by")
    stall_s, rate = limit.stall_s(bytes_per_s), f"{bytes_per_s / 1_000:,.0f} kB/s of notifications"
    if stall_s == float("inf"):
        return finding(Verdict.OK, place, f"{rate}: subscribers have no output limit")
    told = f"{rate}: a subscription survives {stall_s:,.0f} s of stall"
    if stall_s >= STALL_S_MIN:
        return finding(Verdict.OK, place, told)
    wanted = int(bytes_per_s * 60 / MIB) + 32
    hint = f'CONFIG SET client-output-buffer-limit "pubsub {wanted}mb {wanted // 2}mb 60", or more shards'
    return finding(Verdict.NOTE, place, f"{told}; what it misses then is found by a scan", hint)


def about_memory(info: Mapping[str, str], place: str) -> Finding:
    """Return how full the server's memory is, and what happens when it is full."""
    used, most = (int(info.get(name, 0) or 0) for name in ("used_memory", "maxmemory"))
    policy = info.get("maxmemory_policy", "unknown")
    if not most:
        return finding(Verdict.OK, place, f"{used / MIB:,.0f} MiB used, no maxmemory")
    told = f"{used / MIB:,.0f} of {most / MIB:,.0f} MiB used, policy {policy}"
    if used < MEMORY_FULL * most:
        return finding(Verdict.OK, place, told)
    if policy == "noeviction":
        return finding(Verdict.NOTE, place, f"{told}: writes will soon be refused", "raise maxmemory, or a larger node")
    return finding(Verdict.NOTE, place, f"{told}: keys will soon be evicted", "raise maxmemory, if they should stay")


def about_replicas(info: Mapping[str, str], place: str) -> Finding:
    """Return what replicates the node, or what it replicates."""
    if info.get("role") == "slave":
        link, host = info.get("master_link_status", "unknown"), info.get("master_host", "its primary")
        told = f"a replica of {host}, link {link}"
        if link == "up":
            return finding(Verdict.OK, place, told)
        return finding(Verdict.NOTE, place, f"{told}: it receives no changes", "check the primary and the network path")
    replicas = int(info.get("connected_slaves", 0) or 0)
    return finding(Verdict.OK, place, f"a primary with {counted(replicas, 'replica')}" if replicas else "a primary")


def about_clock(ahead_ms: int, whose: str, place: str, margin_ms: int) -> Finding:
    """Return how far another clock is from this host's; ``margin_ms`` is the difference that deadlines tolerate."""
    told = f"the clock of {whose} is {abs(ahead_ms):,} ms {'ahead of' if ahead_ms >= 0 else 'behind'} this host's"
    if abs(ahead_ms) <= min(CLOCK_MS_MAX, margin_ms):
        return finding(Verdict.OK, place, told)
    hint = "run an NTP client (chrony) on both"
    if abs(ahead_ms) > margin_ms:
        hint += f"; delivery.deadline_margin_ms ({margin_ms:,}) covers less than that"
    return finding(Verdict.NOTE, place, told, hint)
