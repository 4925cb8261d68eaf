"""An invoker's lanes over reloads: changes for a removed route go to the routes that want them now.

**A slot keeps its meaning** (`RouteTable.build`): a route whose keys or events are changed gets another slot, and so
another lane. The lane of a removed slot is *retired*: it sends nothing more, and leaves what it has not sent to the
lanes that were made after it and want it. Those send nothing while an invocation of a retired one may still have an
effect: otherwise one key could be in flight twice, and its older value could arrive last.

**On disk** rows are stored under a route's name. After a start, and after a reload that made or retired lanes, each row
is looked at once: one that its route does not want, or no longer wants, goes to the routes that do. Until then a lane
takes nothing back from disk. Rows that no route wants stay if their own route was removed (it may come back), and are
deleted if it exists.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from engine.delivery.backlog.rows import BacklogRow
from engine.delivery.lanes.hands import LaneKit
from engine.delivery.lanes.route_lane import RouteLane
from engine.delivery.lanes.settle import DURABLE
from engine.delivery.lanes.shelving import SHELF_RETRY_MS
from engine.delivery.lanes.work import Entry
from engine.model import EVERY_ROUTE, RouteMask, Run
from engine.observe.logs import get_logger
from engine.routing.events import REPAIR, REPAIR_GONE
from engine.routing.routes import RouteTable, meaning

log = get_logger(__name__)


class Lanes:
    """One lane per slot, those that are retired, and the rows that are to be looked at."""

    def __init__(self, kit: LaneKit) -> None:
        self.in_force: dict[int, RouteLane] = {}
        self.retired: list[RouteLane] = []
        self._kit = kit
        self._doubtful: RouteMask = 0
        """Slots whose marks are not those of the present lane: no route's, or another route's before."""
        self._pause_ms = 0
        self._unsorted: deque[str] = deque()
        self._rows: Iterator[list[BacklogRow]] | None = None
        self._look_after_ms = 0

    def all(self) -> tuple[RouteLane, ...]:
        """Return all lanes."""
        return (*self.in_force.values(), *self.retired)

    def distrust(self) -> None:
        """Forget what was accepted: marks of what was found missing there may be lost."""
        for lane in self.all():
            lane.unchanged.distrust(lane.fences.flying)

    def keep_digests(self) -> None:
        """Keep what was accepted last for the next start."""
        for lane in self.all():
            lane.unchanged.close()

    def by_id(self, lane_id: int) -> RouteLane:
        """Return a lane, which must exist."""
        return next(lane for lane in self.all() if lane.lane_id == lane_id)

    def set_routes(self, table: RouteTable, moment_ms: int, pause_ms: int, shelf_pause_ms: int) -> None:
        """Make lanes for new routes, change those of changed ones, retire those of removed ones.

        New lanes start nothing before ``pause_ms``, and those with keys on disk nothing before ``shelf_pause_ms``
        (monotonic): it is unknown whether those were in flight. Which lane owns them is known once they are sorted.
        """
        self._pause_ms = pause_ms
        deadline_ms = self._kit.delivery.deadline_ms + self._kit.delivery.deadline_margin_ms
        may_have_rows = bool(self._kit.backlog.routes())
        before, self.in_force = self.in_force, {}
        kept = {slot: lane for slot, lane in before.items() if _is_kept(lane, table, slot)}
        gone = [lane for slot, lane in before.items() if slot not in kept]
        for lane in gone:
            lane.retire(table.version)
        self.retired += gone
        for slot, route in table.routes.items():
            old = kept.get(slot)
            lane = old or RouteLane(route, self._kit, table.version, self.retired)
            if old is None:
                lane.fences.start_at(max(pause_ms, shelf_pause_ms) if may_have_rows else pause_ms)
            elif old.route != route:
                old.use(route)
            lane.fences.agree(is_unfenced=bool(table.unfenced >> slot & 1), until_ms=moment_ms + deadline_ms)
            self.in_force[slot] = lane
        self._doubtful = EVERY_ROUTE & ~sum(1 << slot for slot in self.in_force) | table.recycled
        for lane in gone:
            self.hand_on(lane, moment_ms)
        if gone or len(kept) < len(table.routes):
            self._sort_again()

    def share_out(self, runs: list[Run]) -> Iterator[tuple[RouteLane, list[Run]]]:
        """Yield each lane with the runs that are for it."""
        orphans = [one for one in runs if one.routes & self._doubtful]
        for slot, lane in self.in_force.items():
            bit = 1 << slot
            if not bit & self._doubtful:
                mine = [one for one in runs if one.routes & bit]
                mine += _wanted(lane, [one for one in orphans if not one.routes & bit])
            else:
                mine = _wanted(lane, orphans)
            if mine:
                yield lane, mine

    def hand_on(self, lane: RouteLane, moment_ms: int) -> None:
        """Give what a retired lane has not delivered to those that were made after it and want it."""
        strays = lane.take_strays()
        heirs = [one for one in self.in_force.values() if one.version >= lane.retired_by]
        unwanted = 0
        for entry in strays:
            key, cause = entry
            takers = [heir for heir in heirs if heir.wants(key, cause.event)]
            unwanted += not takers
            # What has a row on disk is found there.
            for heir in takers if cause.frame is not DURABLE else ():
                inherit(heir, entry, moment_ms)
            cause.frame.open -= 1
        if unwanted:
            log.warning("keys_of_no_route", route=lane.route.name, keys=unwanted)

    def close_retired(self, moment_ms: int) -> None:
        """Drop those that have nothing more to do."""
        over = [lane for lane in self.retired if lane.is_over(moment_ms)]
        for lane in over:
            lane.release_hands()
            self.retired.remove(lane)

    # Rows on disk

    def _sort_again(self) -> None:
        names = self._kit.backlog.routes()
        self._unsorted, self._rows = deque(names), None
        for lane in self.in_force.values():
            lane.shelving.is_sorted = lane.route.name not in names

    def sort_shelves(self, moment_ms: int) -> bool:
        """Look at some rows; return True if there are more."""
        if not self._unsorted or moment_ms < self._look_after_ms:
            return False
        name = self._unsorted[0]
        try:
            if self._rows is None:
                self._rows = self._kit.backlog.rows(name)
            rows = next(self._rows, None)
            problem = self._sort(name, rows, moment_ms) if rows else ""
        except sqlite3.Error as error:
            rows, problem = None, str(error)
        if problem:
            # What is on disk stays there: once more from the beginning.
            self._rows, self._look_after_ms = None, moment_ms + SHELF_RETRY_MS
            log.error("backlog_refused", route=name, problem=problem)
            return False
        if rows is None:
            self._sorted(name)
        return bool(self._unsorted)

    def _sort(self, name: str, rows: list[BacklogRow], moment_ms: int) -> str:
        """Give those of these rows that their route does not want to those that do; return "" or what went wrong."""
        own = self._named(name)
        strange = [row for row in rows if own is None or not own.wants(row.key, row.event)]
        adopted: set[bytes] = set()
        for lane in self.in_force.values():
            mine = [row for row in strange if lane is not own and lane.wants(row.key, row.event)]
            if mine and (problem := adopt(lane, mine, moment_ms)):
                return problem
            adopted.update(row.key for row in mine)
        self._kit.backlog.remove(name, adopted if own is None else [row.key for row in strange])
        return ""

    def _sorted(self, name: str) -> None:
        self._unsorted.popleft()
        self._rows = None
        own = self._named(name)
        if own is not None:
            own.shelving.is_sorted = True
        elif keys := self._kit.backlog.routes().get(name):
            log.warning("backlog_of_no_route", route=name, keys=keys)
        if not self._unsorted:
            for lane in self.in_force.values():
                if not len(lane.shelf):
                    lane.fences.start_at(self._pause_ms)

    def _named(self, name: str) -> RouteLane | None:
        return next((lane for lane in self.in_force.values() if lane.route.name == name), None)


def _is_kept(lane: RouteLane, table: RouteTable, slot: int) -> bool:
    """Tell whether the lane's slot still means the same."""
    route = table.routes.get(slot)
    return route is not None and meaning(route) == meaning(lane.route)


def _wanted(lane: RouteLane, runs: Iterable[Run]) -> list[Run]:
    """Return which of these the lane's route wants, key by key: they were marked for another one."""
    mine: list[Run] = []
    for run in runs:
        keys = [key for key in run.keys if lane.wants(key, run.event)]
        if keys:
            mine.append(Run(run.event, run.routes, run.captured_ms, keys, run.events, run.trace))
    return mine


def inherit(lane: RouteLane, entry: Entry, moment_ms: int) -> None:
    """Let the lane take a key from a retired one; which of the key's events was last is unknown."""
    key, cause = entry
    event, frame, keys = cause.event, cause.frame, lane.keys
    lane.force([key])
    place = keys.held if key in keys.in_flight else keys.waiting
    known = place.get(key)
    if known is not None or place is keys.held:
        event = _as_known(lane, event)
    elif len(lane.shelf) and lane.deletes and event not in lane.deletes:
        # Its row may say that the key was removed.
        event = REPAIR_GONE
    keys.add([Run(event, EVERY_ROUTE, cause.captured_ms, [key], cause.events)], frame, moment_ms)
    if known is not None and known.frame is not DURABLE and frame.end < known.frame.end:
        # A key holds the oldest frame that mentions it.
        place[key] = place[key].holding(frame)
        frame.open += 1
        known.frame.open -= 1


def adopt(lane: RouteLane, rows: Sequence[BacklogRow], moment_ms: int) -> str:
    """Let the lane keep rows of a route that does not want them; return "" or why that is impossible."""
    lane.force([row.key for row in rows])
    problem = lane.shelf.adopt(rows, lane.deletes)
    if not problem:
        # What is in flight was read before, and what waits may be settled: neither must take the row with it.
        known = [row for row in rows if row.key in lane.keys.waiting or row.key in lane.keys.in_flight]
        again = [Run(_as_known(lane, row.event), EVERY_ROUTE, row.captured_ms, [row.key]) for row in known]
        lane.keys.add(again, DURABLE, moment_ms)
    return problem


def _as_known(lane: RouteLane, event: str) -> str:
    """Return the event for a key that the lane knows, after this event in another one.

    This lane may know that the key was removed: both that and the other's event must be reported.
    """
    return event if event in lane.deletes else REPAIR
