"""What the status file says: plain data, for `engine status`, scripts and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engine.audit.deletions import Held
from engine.ring.counters import ChildState, Counter, StatusRow
from engine.routing.routes import RouteTable
from engine.supervision.children import Child, Children, Phase

_HIGHEST = frozenset(
    {
        Counter.LAG_MS_MAX,
        Counter.VERSION,
        Counter.FENCE_MS,
    }
)
"""Counters whose total is the highest, not the sum."""


def state_of(phase: Phase) -> str:
    """Return how far the engine has come, as users read it: starting, ready or draining."""
    return phase.value if phase in {Phase.STARTING, Phase.READY} else "draining"


def describe(
    children: Children,
    rows: Sequence[StatusRow],
    table: RouteTable,
    *,
    part: str,
    snapshots: Mapping[str, str],
    now_ms: int,
    moment_ms: int,
) -> dict[str, Any]:
    """Return the status; ``now_ms`` is Unix time, ``moment_ms`` the monotonic clock of heartbeats.

    ``snapshots``: how far each route's whole keyspace is.
    """
    return {
        "state": state_of(children.phase),
        "updated_at_ms": now_ms,
        "slice": part,
        "shards": len(children.subscribers),
        "invokers": len(children.invokers),
        "routes_version": table.version,
        "routes": [
            {
                "slot": slot,
                "name": route.name,
                "function": route.function,
                "keys": list(route.keys),
                "events": list(route.events),
                "snapshot": snapshots.get(route.name, "none"),
            }
            for slot, route in sorted(table.routes.items())
        ],
        "children": [_describe(child, rows[child.number], moment_ms) for child in children.all],
        "totals": totals(rows),
    }


def describe_held(held: Held) -> dict[str, Any]:
    """Return what the status says of deletions that were found and not done."""
    routes = [{"route": name, **msgspec.structs.asdict(route)} for name, route in sorted(held.routes.items())]
    return {"deletions_held": held.undecided_keys, "deletions": routes}


def totals(rows: Sequence[StatusRow]) -> dict[str, int]:
    """Return all counters over all children, by name in small letters."""
    return {
        counter.name.lower(): (max if counter in _HIGHEST else sum)(row.get(counter) for row in rows)
        for counter in Counter
    }


def _describe(child: Child, row: StatusRow, moment_ms: int) -> dict[str, Any]:
    state = row.state if child.pid else ChildState.EMPTY
    return {
        "name": child.name,
        "role": child.role.value,
        "index": child.index,
        "pid": child.pid,
        "state": state.name.lower(),
        "heartbeat_age_ms": max(0, moment_ms - row.heartbeat_ms) if child.pid else None,
        "restarts": child.restarts,
        "ring_bytes_waiting": child.backlog_bytes,
        "batch_sizes": row.batch_sizes(),
        "counters": row.snapshot(),
    }


def drained(sums: Mapping[str, int]) -> dict[str, int]:
    """Return what a drained engine says of itself: keys that are left on disk wait for the next start."""
    return {
        "records_delivered": sums[Counter.RECORDS_DELIVERED.name.lower()],
        "keys_in_backlog": sums[Counter.KEYS_BACKLOG.name.lower()],
    }
