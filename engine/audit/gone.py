"""Keys that were deleted unheard: a destination still holds them, and a repair of Redis's keys can't find them.

Run by a process of the engine that may block. They are found by the destination's scan, and marked in the running
engine, which asks Redis once more before it delivers a delete.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from engine.audit.extras import KEYS_AT_ONCE, absent_keys, spared_keys, wanted_keys
from engine.audit.options import AuditOptions
from engine.audit.pace import Pace
from engine.audit.run import open_destination
from engine.audit.server import Server
from engine.audit.verdict import is_absence_known
from engine.clock import monotonic_ms
from engine.config import RouteSettings, Settings
from engine.destination.base import Destination
from engine.errors import EngineError
from engine.routing.events import EVENTS_OF_ABSENCE, REPAIR_GONE
from engine.routing.slices import parse_slice

SETTLE_MS = 1_000
"""A key that was deleted just now is on its way: it is looked at again after so long."""

SEGMENTS = 2
SUSPECTS_MAX = 20_000


class GoneReport(msgspec.Struct, frozen=True):
    """What was found: items ``compared``, keys ``published`` as gone, and ``unknown`` ones.

    Those are in a destination, and not in Redis, and may have been evicted or renamed: some route that would deliver
    their delete does not list every event by which a key goes. They are left as they are.
    """

    compared: int = 0
    published: int = 0
    unknown: int = 0


def publish_gone(settings: Settings, database: int, routes: Sequence[RouteSettings]) -> GoneReport:
    """Mark every key that a route's destination holds and Redis does not, for the engine that listens.

    ``routes`` are all that are in force. Looked at are those with a destination that deliver deletes; paced by
    ``capture.repair_keys_per_s_max``. Raises `EngineError` where a side can't be reached, or nobody listens.
    """
    options = AuditOptions(workers=SEGMENTS)
    return publish_gone_of(settings, database, routes, lambda route: open_destination(route, settings, options))


def publish_gone_of(
    settings: Settings,
    database: int,
    routes: Sequence[RouteSettings],
    destination_of: Callable[[RouteSettings], Destination],
    *,
    settle_ms: int = SETTLE_MS,
    sleep: Callable[[float], None] = time.sleep,
) -> GoneReport:
    """Do so with these destinations."""
    concerned = [route for route in routes if route.destination and EVENTS_OF_ABSENCE.intersection(route.events)]
    if not concerned:
        return GoneReport()
    server = Server(settings.redis, database, "engine-gone")
    try:
        may_evict = server.may_evict()
        is_spared = spared_keys(routes, may_evict)
        searches = [
            _Search(
                settings,
                route,
                server,
                destination_of(route),
                is_spared if is_absence_known(route, may_evict) else lambda key: True,
                settle_ms,
                sleep,
            )
            for route in concerned
        ]
        for search in searches:
            search.run()
        return GoneReport(
            sum(search.compared for search in searches),
            sum(search.published for search in searches),
            sum(search.unknown for search in searches),
        )
    finally:
        server.close()


class _Search:
    """The search for one route."""

    def __init__(
        self,
        settings: Settings,
        route: RouteSettings,
        server: Server,
        destination: Destination,
        is_spared: Callable[[bytes], bool],
        settle_ms: int,
        sleep: Callable[[float], None],
    ) -> None:
        self._is_wanted = wanted_keys(route, settings.original.mapping_prefix, parse_slice(settings.capture.slice))
        self._server = server
        self._destination = destination
        self._is_spared = is_spared
        self._settle_ms = settle_ms
        self._sleep = sleep
        self._pace = Pace(settings.capture.repair_keys_per_s_max)
        self.compared = 0
        self.published = 0
        self.unknown = 0

    def run(self) -> None:
        suspects: dict[bytes, None] = {}
        for looked in absent_keys(self._destination, self._server, self._is_wanted, SEGMENTS, self._pause):
            self.compared += looked.items
            suspects.update(dict.fromkeys(looked.absent))
            if len(suspects) >= SUSPECTS_MAX:
                self._publish([*suspects])
                suspects.clear()
        self._publish([*suspects])

    def _publish(self, suspects: list[bytes]) -> None:
        """Look at them again, and mark those that are still gone there and still held here."""
        if not suspects:
            return
        self._sleep(self._settle_ms / 1_000)
        for start in range(0, len(suspects), KEYS_AT_ONCE):
            keys = suspects[start : start + KEYS_AT_ONCE]
            self._pause(len(keys))
            items = self._destination.get(keys)
            held = [key for key, item in items.items() if not item.is_absent]
            absent = self._server.absent(held)
            gone = [key for key in absent if not self._is_spared(key)]
            self.unknown += len(absent) - len(gone)
            unheard = self._server.mark(gone, REPAIR_GONE)
            self.published += len(gone) - unheard
            if unheard:
                raise EngineError("nobody listens to the marks of keys that are gone", hint="it is tried again")

    def _pause(self, keys: int) -> None:
        wait_ms = self._pace.spend(keys, monotonic_ms())
        if wait_ms:
            self._sleep(wait_ms / 1_000)
