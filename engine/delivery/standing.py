"""The state of an invoker's routes: what waits, since when, and why deliveries fail; for the supervisor's status."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from engine.clock import now_ms
from engine.delivery.backlog.backlog import Backlog
from engine.delivery.lanes.route_lane import RouteLane
from engine.lifecycle import ChildLink, RouteStanding, Standings

REPORT_MS = 1_000
"""How often the supervisor is told."""
BATCHES_LOOKED_AT = 256
"""How many keys that wait for their next attempt are looked at; the oldest is among the first, or close to them."""


class Reporter:
    """Reports to the supervisor how the routes are: once a second, if anything has changed."""

    def __init__(self, link: ChildLink, backlog: Backlog) -> None:
        self._link = link
        self._backlog = backlog
        self._said = Standings(())
        self._due_ms = 0

    def turn(self, lanes: Iterable[RouteLane], moment_ms: int) -> None:
        """Report if that is due at this moment (monotonic)."""
        if moment_ms < self._due_ms:
            return
        self._due_ms = moment_ms + REPORT_MS
        standings = Standings(standings_of(lanes, self._backlog, moment_ms, now_ms()))
        if standings != self._said and self._link.mention(standings):
            self._said = standings


def standings_of(
    lanes: Iterable[RouteLane], backlog: Backlog, moment_ms: int, unix_ms: int
) -> tuple[RouteStanding, ...]:
    """Return the state of each route that has a lane; lanes of one name (one of them retired) count as one.

    ``moment_ms`` is the monotonic clock of the lanes, ``unix_ms`` that of captured changes.
    """
    by_name: dict[str, list[RouteLane]] = {}
    for lane in lanes:
        by_name.setdefault(lane.route.name, []).append(lane)
    return tuple(_standing_of(name, some, backlog, unix_ms - moment_ms) for name, some in by_name.items())


def _standing_of(name: str, lanes: list[RouteLane], backlog: Backlog, unix_ahead_ms: int) -> RouteStanding:
    moments = [moment for lane in lanes for moment in _oldest_of(lane)]
    if backlog.count(name) and (on_disk := backlog.ages.of(name)):
        moments.append(on_disk)
    # A route fails only as long as something waits for it: keys may be gone, or all be kept as dead letters.
    is_idle = not backlog.count(name) and all(lane.keys.is_idle() for lane in lanes)
    failing = [lane.health for lane in lanes if lane.health.failing_since_ms and not is_idle]
    since_ms = min((health.failing_since_ms for health in failing), default=0)
    if since_ms:
        # What was sent then is not delivered; on disk it may count as set aside, without an age.
        moments.append(since_ms + unix_ahead_ms)
    last = max((lane.health for lane in lanes), key=lambda health: health.error_ms)
    return RouteStanding(
        route=name,
        keys_waiting=sum(len(lane.keys.waiting) + len(lane.keys.held) for lane in lanes),
        keys_in_flight=sum(len(lane.keys.in_flight) for lane in lanes),
        keys_backlog=backlog.count(name),
        keys_set_aside=backlog.keys_set_aside(name),
        oldest_ms=min(moments, default=0),
        failing_since_ms=since_ms + unix_ahead_ms if since_ms else 0,
        error=last.error,
        error_ms=last.error_ms + unix_ahead_ms if last.error_ms else 0,
    )


def _oldest_of(lane: RouteLane) -> Iterator[int]:
    """Yield when the first undelivered keys of each place were captured: about the oldest there."""
    keys = lane.keys
    for place in (keys.waiting, keys.held):
        yield from (cause.captured_ms for cause in islice(place.values(), 1))
    waiting = (batch for _, _, batch in islice(iter(keys.retries), BATCHES_LOOKED_AT))
    for batches in (lane.fences.flying, waiting):
        yield from (batch.entries[0][1].captured_ms for batch in batches if batch.entries and batch.aside is None)
