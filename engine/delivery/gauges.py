"""Writes what an invoker holds into its row."""

from __future__ import annotations

from collections.abc import Iterable

from engine.delivery.backlog.backlog import Backlog
from engine.delivery.lanes.route_lane import RouteLane
from engine.ring.counters import Counter, StatusRow


def set_gauges(row: StatusRow, lanes: Iterable[RouteLane], backlog: Backlog, fence_ms: int) -> None:
    """Set what changes from turn to turn; before ``fence_ms`` invocations of a predecessor may still write."""
    waiting = in_flight = 0
    for lane in lanes:
        keys = lane.keys
        waiting += len(keys.waiting) + len(keys.held)
        in_flight += len(keys.in_flight)
        fence_ms = max(fence_ms, lane.fences.until_ms())
    row.set(Counter.FENCE_MS, fence_ms)
    row.set(Counter.KEYS_BACKLOG, sum(backlog.routes().values()))
    row.set(Counter.KEYS_SET_ASIDE, backlog.keys_set_aside())
    row.set(Counter.KEYS_WAITING, waiting)
    row.set(Counter.KEYS_IN_FLIGHT, in_flight)
