"""What the status file says: plain data, for `engine status`, scripts and tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import asdict

from engine import __version__
from engine.audit.deletions import Held
from engine.clock import monotonic_ms, now_ms
from engine.lifecycle import RouteStanding
from engine.observe import logs
from engine.observe.history import History
from engine.observe.scans import ScanProgress
from engine.observe.timeline import Timeline
from engine.ring.counters import ChildState, Counter, StatusRow, totals
from engine.routing.databases import keys_shown
from engine.routing.routes import RouteTable
from engine.supervision.children import Child, Children, Phase


class StatusReport:
    """What the status says besides counters: lags, the recent past, scans, and routes as invokers report them."""

    def __init__(self, rows: Sequence[StatusRow]) -> None:
        self._started_at_ms = now_ms()
        self._rows = rows
        self._history, self._scan = History(monotonic_ms()), ScanProgress()
        self._timeline = Timeline()
        self._standings: dict[int, Mapping[str, RouteStanding]] = {}

    def hear(self, number: int, standings: Iterable[RouteStanding]) -> None:
        """Take in the state of the routes in this invoker; it counts until the next report."""
        self._standings[number] = {one.route: one for one in standings}

    def make(self, describe: Callable[..., dict[str, Any]], *others: Mapping[str, Any]) -> dict[str, Any]:
        """Return the status; ``describe`` is handed Unix time and the monotonic clock, by name."""
        moment_ms = monotonic_ms()
        status = describe(unix_ms=now_ms(), moment_ms=moment_ms)
        sums = status["totals"]
        for route in status["routes"]:
            route |= self._of_route(route["name"])
        return {
            "pid": os.getpid(),
            "version": __version__,
            "started_at_ms": self._started_at_ms,
            "log_level": logs.level(),
            **status,
            **self._history.describe(self._rows, moment_ms, status["updated_at_ms"]),
            "timeline": self._timeline.take_in(status["children"], status["updated_at_ms"]),
            "scan": self._scan.take_in(sums["keys_scanned"], sums["keys_to_scan"], moment_ms),
            **{name: value for other in others for name, value in other.items()},
        }

    def _of_route(self, name: str) -> dict[str, Any]:
        known = [said[name] for said in self._standings.values() if name in said]
        merged = asdict(merge(name, known))
        del merged["route"]
        return merged


def merge(name: str, standings: Sequence[RouteStanding]) -> RouteStanding:
    """Return the state of a route in all invokers together."""
    oldest = [one.oldest_ms for one in standings if one.oldest_ms]
    failing = [one.failing_since_ms for one in standings if one.failing_since_ms]
    last = max(standings, key=lambda one: (bool(one.failing_since_ms), one.error_ms), default=RouteStanding(name))
    return RouteStanding(
        name,
        keys_waiting=sum(one.keys_waiting for one in standings),
        keys_in_flight=sum(one.keys_in_flight for one in standings),
        keys_backlog=sum(one.keys_backlog for one in standings),
        keys_set_aside=sum(one.keys_set_aside for one in standings),
        oldest_ms=min(oldest, default=0),
        failing_since_ms=min(failing, default=0),
        error=last.error,
        error_ms=last.error_ms,
    )


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
    unix_ms: int,
    moment_ms: int,
) -> dict[str, Any]:
    """Return the status; ``unix_ms`` is Unix time, ``moment_ms`` the monotonic clock of heartbeats.

    ``snapshots``: how far each route's whole keyspace is.
    """
    return {
        "state": state_of(children.phase),
        "updated_at_ms": unix_ms,
        "slice": part,
        "shards": len(children.subscribers),
        "invokers": len(children.invokers),
        "routes_version": table.version,
        "routes": [
            {
                "slot": slot,
                "name": route.name,
                "function": route.function,
                "keys": list(keys_shown(route)),
                "databases": list(route.databases),
                "events": list(route.events),
                "snapshot": snapshots.get(route.name, "none"),
            }
            for slot, route in sorted(table.routes.items())
        ],
        "children": [_describe(child, rows[child.number], moment_ms) for child in children.all],
        "totals": totals(rows),
    }


def describe_held(held: Held) -> dict[str, Any]:
    """Return what the status says about deletions that were found and not carried out."""
    routes = [{"route": name, **msgspec.structs.asdict(route)} for name, route in sorted(held.routes.items())]
    return {"deletions_held": held.undecided_keys, "deletions": routes}


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
        "gaps": row.gaps(),
    }


def drained(sums: Mapping[str, int]) -> dict[str, int]:
    """Return what a drained engine reports: keys that are left on disk wait for the next start."""
    return {
        "records_delivered": sums[Counter.RECORDS_DELIVERED.name.lower()],
        "keys_in_backlog": sums[Counter.KEYS_BACKLOG.name.lower()],
    }
