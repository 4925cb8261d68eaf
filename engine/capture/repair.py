"""Gaps → dirty keys: a paced scan of the shard that was not listening.

A gap says that *some* keys of a shard may have changed unheard. Every key of the shard that a route wants is marked
dirty, and goes the way of all dirty keys: merged with what is live, read when it is delivered, bounded by the same
set. A gap that begins while a scan is under way is covered by another scan, from the beginning: keys that the first
one has passed may have changed since.

**Narrowing.** A key that was accessed last before the gap began did not change in it, so it is passed over: the server
tells by ``OBJECT IDLETIME``. That is believed only while the server's mark (`engine.capture.watch`) is what it was
before the gap: while a child saves or rewrites, Redis touches no key, so its changes leave the idle time as it was.

What a scan cannot find is a key that was deleted in the gap: it is not there any more. `engine.audit` finds those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis

from engine.capture.dirty import DirtyKeys
from engine.capture.shards import Shard, channel_prefix
from engine.capture.watch.sight import Sight
from engine.config import CaptureSettings, RedisSettings
from engine.errors import RedisError
from engine.model import THE_BEGINNING_MS, Missed, RouteMask
from engine.observe.logs import get_logger
from engine.redis.connection import RespConnection, pack
from engine.redis.errors import refusal
from engine.ring.counters import Counter, StatusRow
from engine.routing.events import REPAIR
from engine.routing.glob import matcher
from engine.routing.routes import RouteTable

log = get_logger(__name__)

SCAN_COUNT = 500
"""Keys that one SCAN looks at: about half a millisecond of the server's one thread."""

RETRY_MS_MIN, RETRY_MS_MAX = 200, 30_000

IDLE_MARGIN_S = 3
"""Idle times are whole seconds, and so is the server's clock behind them."""
IDLE_S_MAX = 2**24 - 30 * 86_400
"""The server's idle clock has 24 bits of seconds: a clock that went back shows as nearly all of them."""


def merge(known: Missed, new: Missed) -> Missed:
    """Return what covers both."""
    mark = known.server_mark if known.server_mark == new.server_mark else 0
    routes = known.routes | new.routes
    return Missed(min(known.since_ms, new.since_ms), mark, routes, _delivered_of_both(known, new))


def _delivered_of_both(known: Missed, new: Missed) -> dict[int, tuple[str, ...]]:
    """Return what neither misses: a route that both have lacks nothing of it only where they agree."""
    delivered = {**known.delivered, **new.delivered}
    for slot in list(delivered):
        in_both = (known.routes >> slot) & (new.routes >> slot) & 1
        if in_both and known.delivered.get(slot) != new.delivered.get(slot):
            del delivered[slot]
    return delivered


def routes_missing(missed: Missed) -> Callable[[bytes], RouteMask]:
    """Return what tells which routes miss a key, if they want it."""
    tests = [
        (1 << slot, matcher([pattern.encode() for pattern in patterns])) for slot, patterns in missed.delivered.items()
    ]

    def mask(key: bytes) -> RouteMask:
        routes = missed.routes
        for bit, matches in tests:
            if routes & bit and matches(key):
                routes &= ~bit
        return routes

    return mask


class Repair:
    """The scans of one shard, one step a turn of its subscriber's loop; never raises for the server's sake.

    What was missed since a moment, and the whole keyspace for routes that begin with it, are scans of their own: the
    second marks everything.
    """

    def __init__(
        self,
        redis: RedisSettings,
        database: int,
        shard: Shard,
        table: RouteTable,
        mapping_prefix: bytes,
        capture: CaptureSettings,
        row: StatusRow,
    ) -> None:
        self._redis = redis
        self._database = database
        self._shard = shard
        self._pattern = shard.patterns[0].removeprefix(channel_prefix(database))
        self._mask_of = table.for_repairs().mask
        self._mapping_prefix = mapping_prefix
        self._by_idle_time = capture.repair_by_idle_time
        self._step_ms = max(1, SCAN_COUNT * 1_000 // capture.repair_keys_per_s_max)
        self._row = row
        self._connection: RespConnection | None = None
        self._wanted: list[Missed] = []
        self._current: Missed | None = None
        self._missing = routes_missing(Missed(0))
        self._idle_s_max: int | None = None
        self._cursor: bytes | None = None
        self._unmarked: list[bytes] = []
        self._began_ms = self._due_ms = 0
        self._marked = self._failures = 0

    def set_routes(self, table: RouteTable) -> None:
        """Mark for these routes from now on."""
        self._mask_of = table.for_repairs().mask

    def request(self, missed: Missed) -> None:
        """Ask for a scan that begins after now."""
        is_whole = missed.since_ms == THE_BEGINNING_MS
        for index, known in enumerate(self._wanted):
            if (known.since_ms == THE_BEGINNING_MS) == is_whole:
                self._wanted[index] = merge(known, missed)
                return
        self._wanted.append(missed)

    def is_under_way(self) -> bool:
        """Tell whether a scan is wanted or not yet at its end."""
        return self._current is not None or bool(self._wanted)

    def wait_ms(self, moment_ms: int) -> int | None:
        """Return how long until the next step is due, None where none is."""
        return max(1, self._due_ms - moment_ms) if self.is_under_way() else None

    def advance(self, dirty: DirtyKeys, keys_max: int, sight: Sight, moment_ms: int, unix_ms: int) -> bool:
        """Take one step if it is due and the dirty set holds less than ``keys_max``: live changes come first.

        ``sight`` is a look that the sentry took after the gap's end. Return True when a scan came to its end.
        """
        if moment_ms < self._due_ms or not self.is_under_way() or len(dirty) >= keys_max:
            return False
        self._due_ms = moment_ms + self._step_ms
        if not self._unmarked:
            try:
                self._step(sight, moment_ms)
            except RedisError as error:
                self._fail(error, moment_ms)
                return False
        self._mark(dirty, unix_ms)
        if self._cursor is None and not self._unmarked:
            self._finish(moment_ms)
            return True
        return False

    def _step(self, sight: Sight, moment_ms: int) -> None:
        """Scan on; a connection that was lost has lost its place too, so its scan begins again."""
        if self._connection is None:
            self._connection = RespConnection.open(
                self._redis, name=f"engine-repair-{self._shard.index + 1}", protocol=2, database=self._database
            )
        if self._current is None:
            self._begin(self._connection, sight, moment_ms)
        assert self._cursor is not None
        reply: Any = self._connection.call("SCAN", self._cursor, "MATCH", self._pattern, "COUNT", SCAN_COUNT)
        if isinstance(reply, hiredis.ReplyError):
            raise refusal(self._connection.address, "scan for a repair", str(reply))
        cursor, keys = reply
        self._failures = 0
        self._row.set(Counter.KEYS_SCANNED, self._row.get(Counter.KEYS_SCANNED) + SCAN_COUNT)
        self._cursor = None if cursor == b"0" else cursor
        self._unmarked += self._narrowed(self._connection, [key for key in keys if self._shard.owns(key)])

    def _begin(self, connection: RespConnection, sight: Sight, moment_ms: int) -> None:
        self._current = current = self._wanted.pop(0)
        self._missing = routes_missing(current)
        self._cursor = b"0"
        self._began_ms = moment_ms
        self._marked = 0
        self._idle_s_max = self._idle_limit_s(current, sight)
        # No class of last bytes matches the empty key.
        self._unmarked = [b""] if self._shard.takes_empty_key and connection.call("EXISTS", b"") == 1 else []
        size = connection.call("DBSIZE")
        self._row.set(Counter.KEYS_SCANNED, 0)
        self._row.set(Counter.KEYS_TO_SCAN, size if isinstance(size, int) else 0)
        shard, since_ms = self._shard.index + 1, current.since_ms
        log.info("repair_begun", shard=shard, since_ms=since_ms, idle_s_max=self._idle_s_max, keys=size)

    def _idle_limit_s(self, missed: Missed, sight: Sight) -> int | None:
        """Return how long a key that changed in the gap may have been idle; None where that can't be told."""
        may_tell = self._by_idle_time and missed.since_ms != THE_BEGINNING_MS and sight.mark
        if not may_tell or sight.mark != missed.server_mark or sight.server_ms < missed.since_ms:
            return None
        return (sight.server_ms - missed.since_ms) // 1_000 + IDLE_MARGIN_S

    def _narrowed(self, connection: RespConnection, keys: list[bytes]) -> list[bytes]:
        """Return the keys that may have changed in the gap; all of them where the server tells no idle times."""
        if self._idle_s_max is None or not keys:
            return keys
        replies = connection.pipeline(b"".join(pack("OBJECT", "IDLETIME", key) for key in keys), len(keys))
        if any(isinstance(reply, hiredis.ReplyError) and "no such key" not in str(reply) for reply in replies):
            self._idle_s_max = None
            return keys
        # The scan goes on while time passes, and idle times grow with it.
        limit_s = self._idle_s_max + (self._due_ms - self._began_ms) // 1_000
        return [
            key
            for key, idle_s in zip(keys, replies, strict=True)
            if not isinstance(idle_s, int) or idle_s <= limit_s or idle_s >= IDLE_S_MAX
        ]

    def _mark(self, dirty: DirtyKeys, unix_ms: int) -> None:
        assert self._current is not None
        keys = [key for key in self._unmarked if not self._is_mapping(key)]
        mask_of, missing = self._mask_of, self._missing
        marked, self._unmarked = dirty.mark(keys, lambda key: mask_of(key) & missing(key), REPAIR, unix_ms)
        self._marked += marked
        self._row.add(Counter.KEYS_REPAIRED, marked)

    def _is_mapping(self, key: bytes) -> bool:
        return bool(self._mapping_prefix) and key.startswith(self._mapping_prefix)

    def _finish(self, moment_ms: int) -> None:
        assert self._current is not None
        since_ms, self._current = self._current.since_ms, None
        self._row.add(Counter.REPAIRS, 1)
        self._row.set(Counter.KEYS_TO_SCAN, 0)
        took_ms = moment_ms - self._began_ms
        log.info("repaired", shard=self._shard.index + 1, since_ms=since_ms, keys=self._marked, took_ms=took_ms)
        if not self._wanted:
            self.close()

    def _fail(self, error: RedisError, moment_ms: int) -> None:
        """Try again later, for ever: a gap that is given up would be a loss."""
        self.close()
        if self._current is not None:
            self.request(self._current)
            self._current = None
        self._failures += 1
        wait_ms = min(RETRY_MS_MAX, RETRY_MS_MIN << min(self._failures, 10))
        self._due_ms = moment_ms + wait_ms
        log.warning("repair_failed", shard=self._shard.index + 1, error=str(error), retry_in_ms=wait_ms)

    def close(self) -> None:
        """Close the connection; a scan that is wanted opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
