"""Gaps → dirty keys: a paced scan of the shard that was not listening.

A gap says that *some* keys of a shard may have changed unheard. Every key of the shard that a route wants is marked
dirty, and goes the way of all dirty keys: merged with what is live, read when it is delivered, bounded by the same
set. A gap that begins while a scan is under way is covered by another scan, from the beginning: keys that the first
one has passed may have changed since.

What a scan cannot find is a key that was deleted in the gap: it is not there any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis

from engine.capture.dirty import DirtyKeys
from engine.capture.shards import Shard, channel_prefix
from engine.config import RedisSettings
from engine.connection import RespConnection
from engine.connection_errors import refusal
from engine.errors import RedisError
from engine.events import EVENTS_OF_ABSENCE
from engine.model import RouteMask
from engine.observe.logs import get_logger
from engine.ring.counters import Counter, StatusRow
from engine.routes import EventRoutes, RouteTable

log = get_logger(__name__)

REPAIR_EVENT = "repair"
"""What stands for the event of a key that a scan found: no event was heard."""

SCAN_COUNT = 500
"""Keys that one SCAN looks at: about half a millisecond of the server's one thread."""

RETRY_MS_MIN, RETRY_MS_MAX = 200, 30_000


def mask_of_any(table: RouteTable) -> Callable[[bytes], RouteMask]:
    """Return what tells which routes want a key for any event that leaves it there."""
    always: RouteMask = 0
    some: dict[RouteMask, Callable[[bytes], object]] = {}
    for event, routes in table.compile().items():
        if event.decode() not in EVENTS_OF_ABSENCE:
            always |= routes.always
            some.update(routes.some)
    return EventRoutes(always, tuple(some.items())).mask


class Repair:
    """The scans of one shard, one step a turn of its subscriber's loop; never raises for the server's sake."""

    def __init__(
        self,
        redis: RedisSettings,
        database: int,
        shard: Shard,
        table: RouteTable,
        mapping_prefix: bytes,
        keys_per_s_max: int,
        row: StatusRow,
    ) -> None:
        self._redis = redis
        self._database = database
        self._shard = shard
        self._pattern = shard.patterns[0].removeprefix(channel_prefix(database))
        self._mask_of = mask_of_any(table)
        self._mapping_prefix = mapping_prefix
        self._step_ms = max(1, SCAN_COUNT * 1_000 // keys_per_s_max)
        self._row = row
        self._connection: RespConnection | None = None
        self._is_scanning = False
        self._cursor: bytes | None = None
        self._unmarked: list[bytes] = []
        self._since_ms = self._wanted_since_ms = 0
        self._began_ms = self._due_ms = 0
        self._marked = self._failures = 0

    def set_routes(self, table: RouteTable) -> None:
        """Mark for these routes from now on."""
        self._mask_of = mask_of_any(table)

    def request(self, since_ms: int) -> None:
        """Ask for a scan that begins after now; ``since_ms`` is when the gap began (Unix time)."""
        self._wanted_since_ms = min(self._wanted_since_ms or since_ms, since_ms)

    def is_under_way(self) -> bool:
        """Tell whether a scan is wanted or not yet at its end."""
        return self._is_scanning or bool(self._wanted_since_ms)

    def wait_ms(self, moment_ms: int) -> int | None:
        """Return how long until the next step is due, None where none is."""
        return max(1, self._due_ms - moment_ms) if self.is_under_way() else None

    def advance(self, dirty: DirtyKeys, keys_max: int, moment_ms: int, unix_ms: int) -> None:
        """Take one step if it is due and the dirty set holds less than ``keys_max``: live changes come first."""
        if moment_ms < self._due_ms or not self.is_under_way() or len(dirty) >= keys_max:
            return
        self._due_ms = moment_ms + self._step_ms
        if not self._unmarked:
            try:
                self._step(moment_ms)
            except RedisError as error:
                self._fail(error, moment_ms)
                return
        self._mark(dirty, unix_ms)
        if self._cursor is None and not self._unmarked:
            self._finish(moment_ms)

    def _step(self, moment_ms: int) -> None:
        """Scan on; a connection that was lost has lost its place too, so its scan begins again."""
        if self._connection is None:
            self._connection = RespConnection.open(
                self._redis, name=f"engine-repair-{self._shard.index + 1}", protocol=2, database=self._database
            )
        if not self._is_scanning:
            self._begin(self._connection, moment_ms)
        assert self._cursor is not None
        reply: Any = self._connection.call("SCAN", self._cursor, "MATCH", self._pattern, "COUNT", SCAN_COUNT)
        if isinstance(reply, hiredis.ReplyError):
            raise refusal(self._connection.address, "scan for a repair", str(reply))
        cursor, keys = reply
        self._failures = 0
        self._cursor = None if cursor == b"0" else cursor
        self._unmarked += [key for key in keys if self._shard.owns(key)]

    def _begin(self, connection: RespConnection, moment_ms: int) -> None:
        self._is_scanning = True
        self._cursor = b"0"
        self._began_ms = moment_ms
        self._marked = 0
        self._since_ms, self._wanted_since_ms = self._wanted_since_ms, 0
        # No class of last bytes matches the empty key.
        self._unmarked = [b""] if self._shard.takes_empty_key and connection.call("EXISTS", b"") == 1 else []
        log.info("repair_begun", shard=self._shard.index + 1, since_ms=self._since_ms)

    def _mark(self, dirty: DirtyKeys, unix_ms: int) -> None:
        keys = [key for key in self._unmarked if not self._is_mapping(key)]
        marked, self._unmarked = dirty.mark(keys, self._mask_of, REPAIR_EVENT, unix_ms)
        self._marked += marked
        self._row.add(Counter.KEYS_REPAIRED, marked)

    def _is_mapping(self, key: bytes) -> bool:
        return bool(self._mapping_prefix) and key.startswith(self._mapping_prefix)

    def _finish(self, moment_ms: int) -> None:
        self._is_scanning = False
        self._row.add(Counter.REPAIRS, 1)
        took_ms = moment_ms - self._began_ms
        log.info("repaired", shard=self._shard.index + 1, since_ms=self._since_ms, keys=self._marked, took_ms=took_ms)
        if not self._wanted_since_ms:
            self.close()

    def _fail(self, error: RedisError, moment_ms: int) -> None:
        """Try again later, for ever: a gap that is given up would be a loss."""
        self.close()
        if self._is_scanning:
            self._is_scanning = False
            self.request(self._since_ms)
        self._failures += 1
        wait_ms = min(RETRY_MS_MAX, RETRY_MS_MIN << min(self._failures, 10))
        self._due_ms = moment_ms + wait_ms
        log.warning("repair_failed", shard=self._shard.index + 1, error=str(error), retry_in_ms=wait_ms)

    def close(self) -> None:
        """Close the connection; a scan that is wanted opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
