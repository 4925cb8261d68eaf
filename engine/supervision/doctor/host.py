"""This host: open files, disk space for what the settings allow."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Mapping
from pathlib import Path

from engine.config import Settings
from engine.supervision.errands.findings import Finding, Verdict, finding

FILES_OF_A_PROCESS = 64
"""What a process opens beside its connections to functions and nodes, or databases."""
NODES_GUESSED = 16
GIB = 1 << 30


def host_findings(settings: Settings) -> list[Finding]:
    """Return what this host lacks."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    rooms = {path: shutil.disk_usage(path).free for path in map(existing, places_of(settings))}
    return [open_files(settings, soft), *disk(settings, rooms)]


def places_of(settings: Settings) -> dict[str, int]:
    """Return the paths that grow, and how large the settings let each become."""
    delivery = settings.delivery
    return {
        delivery.backlog_folder: delivery.backlog_bytes_max * delivery.invokers,
        delivery.dead_letter_file: delivery.dead_letter_bytes_max,
    }


def existing(path: str) -> str:
    """Return the path, or the closest existing folder above it."""
    found = Path(path)
    while not found.exists() and found != found.parent:
        found = found.parent
    return str(found)


def files_needed(settings: Settings) -> int:
    """Return how many files this engine's largest user of them opens: an invoker at its full concurrency."""
    invocations = sum(route.parallelization_factor for route in settings.routes)
    return FILES_OF_A_PROCESS + max(NODES_GUESSED, len(settings.redis.databases)) + 2 * invocations


def open_files(settings: Settings, limit: int) -> Finding:
    """Return whether the limit of open files is enough."""
    needed = files_needed(settings)
    if limit in (resource.RLIM_INFINITY, -1) or limit >= needed:
        return finding(Verdict.OK, "host", f"{limit:,} open files are allowed, about {needed:,} are needed")
    hint = f"ulimit -n {2 * needed}, or LimitNOFILE={2 * needed} in the systemd unit"
    return finding(Verdict.NOTE, "host", f"{limit:,} open files are allowed, about {needed:,} are needed", hint)


def disk(settings: Settings, free: Mapping[str, int]) -> list[Finding]:
    """Return whether each file system has space for what the settings allow; ``free`` is by existing path."""
    by_device: dict[int, list[tuple[str, int]]] = {}
    for path, size in places_of(settings).items():
        by_device.setdefault(Path(existing(path)).stat().st_dev, []).append((path, size))
    return [
        _room(settings, some[0][0], sum(size for _, size in some), min(free[existing(path)] for path, _ in some))
        for some in by_device.values()
    ]


def _room(settings: Settings, path: str, wanted: int, free: int) -> Finding:
    told = f"{path}: {free / GIB:,.1f} GiB free; backlog and dead letters may take {wanted / GIB:,.1f} GiB"
    if free >= wanted:
        return finding(Verdict.OK, "disk", told)
    share = max(1_048_576, int(free * 0.8) // (settings.delivery.invokers + 1))
    hint = f"give it more space, or set delivery.backlog_bytes_max and delivery.dead_letter_bytes_max to {share:_}"
    return finding(Verdict.NOTE, "disk", told, hint)
