"""Lanes that would stop the others by filling the rings move their keys to disk."""

from __future__ import annotations

from collections.abc import Sequence

from engine.clock import monotonic_ms
from engine.delivery.lanes.route_lane import RouteLane

STUCK_RING_SHARE = 0.5
"""The share of a ring that a lane in trouble may hold up; past it, its keys move to disk."""
SLOW_RING_SHARE = 0.75
"""The share of a ring that a lane may hold up if it delivers, though slowly."""
EASE_REST = 3
"""After moving keys of a slow lane to disk, the rest lasts this many times as long as the move took."""
BLAMED_RATIO = 4
"""A lane is slow if another one has this many times fewer waiting keys."""


class Relief:
    """Decides which lane's keys move, and rests in between."""

    def __init__(self) -> None:
        self._ease_after_ms = 0

    def relieve(self, lanes: Sequence[RouteLane], ring_share: float) -> None:
        """Move keys of lanes to disk if this much of a ring is in use."""
        if ring_share <= STUCK_RING_SHARE:
            return
        moment_ms = monotonic_ms()
        stuck = [lane for lane in lanes if lane.is_held_up(moment_ms)]
        for lane in lanes:
            if lane.keys.retries or lane in stuck:
                lane.shelve(moment_ms, is_stuck=lane in stuck)
        if lanes and not stuck and ring_share > SLOW_RING_SHARE and moment_ms >= self._ease_after_ms:
            self._ease(lanes, moment_ms)

    def _ease(self, lanes: Sequence[RouteLane], moment_ms: int) -> None:
        """Keep a lane that is merely slow from holding up others: if all have as much to do, none is to blame."""
        slowest = blamed(lanes)
        if slowest is None:
            return
        slowest.ease(moment_ms)
        ended_ms = monotonic_ms()
        # Otherwise it might do nothing but move keys to disk, and never deliver what would free the ring.
        self._ease_after_ms = ended_ms + EASE_REST * (ended_ms - moment_ms)


def blamed(lanes: Sequence[RouteLane]) -> RouteLane | None:
    """Return the lane that is slow compared with another one; None if all have as much to do."""
    slowest = max(lanes, key=lambda lane: len(lane.keys.waiting))
    is_alone = any(len(lane.keys.waiting) * BLAMED_RATIO <= len(slowest.keys.waiting) for lane in lanes)
    return slowest if is_alone else None


def empty_out(lanes: Sequence[RouteLane]) -> None:
    """For a drain: move to disk what would hold it up."""
    for lane in lanes:
        if lane.health.is_troubled and not lane.keys.is_idle():
            lane.empty_out(monotonic_ms())
