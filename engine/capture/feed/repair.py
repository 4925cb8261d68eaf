"""Gaps → dirty keys: a paced scan of what a feed was not listening to.

A gap says that *some* keys of a feed may have changed unheard. Every key of the feed that a route wants is marked
dirty, and goes the way of all dirty keys: merged with what is live, read when it is delivered, bounded by the same
set. A gap that begins while a scan is under way is covered by another scan, from the beginning: keys that the first
one has passed may have changed since.

**Narrowing.** A key that was accessed last before the gap began did not change in it, so it is passed over: the server
tells by ``OBJECT IDLETIME``, where that can be believed (`engine.capture.watch.trust`). Everywhere else every key of
the feed is marked. What speaks against it only while the scan is under way is a gap of its own.

What a scan cannot find is a key that was deleted in the gap: it is not there any more. `engine.audit` finds those.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import hiredis

from engine.capture.dirty import DirtyKeys
from engine.capture.feed.gaps import earliest
from engine.capture.feed.subscription import Subscription
from engine.capture.watch.keepsake import KEY as KEEPSAKE
from engine.capture.watch.sight import Sight, unix_ms_of
from engine.capture.watch.trust import CONTAINERS, idle_limit_s, may_be_newer
from engine.clock import monotonic_ms
from engine.config import CaptureSettings
from engine.errors import RedisError
from engine.model import THE_BEGINNING_MS, Missed, RouteMask
from engine.observe.logs import get_logger
from engine.redis.connection import RespConnection, pack
from engine.redis.errors import refusal
from engine.ring.counters import Counter, StatusRow
from engine.routing.byte_classes import channel_prefix
from engine.routing.events import REPAIR
from engine.routing.glob import matcher
from engine.routing.routes import RouteTable

log = get_logger(__name__)

SCAN_COUNT = 500
"""Keys that one SCAN looks at: about half a millisecond of the server's one thread."""

RETRY_MS_MIN, RETRY_MS_MAX = 200, 30_000


def merge(known: Missed, new: Missed) -> Missed:
    """Return what covers both."""
    mark = known.server_mark if known.server_mark == new.server_mark else 0
    routes = known.routes | new.routes
    clock_ms = max(known.clock_ms, new.clock_ms) if known.clock_ms and new.clock_ms else 0
    return Missed(min(known.since_ms, new.since_ms), mark, routes, _delivered_of_both(known, new), clock_ms)


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
    """The scans of one feed, one step a turn of its subscriber's loop; never raises for the server's sake.

    What was missed since a moment, and the whole keyspace for routes that begin with it, are scans of their own: the
    second marks everything.
    """

    def __init__(
        self,
        subscription: Subscription,
        table: RouteTable,
        mapping_prefix: bytes,
        capture: CaptureSettings,
        row: StatusRow,
    ) -> None:
        self._subscription = subscription
        self._feed = subscription.feed
        self._pattern = self._feed.patterns[0].removeprefix(channel_prefix(subscription.database))
        self._mask_of = table.for_repairs().mask
        self._mapping_prefix = mapping_prefix
        self._by_idle_time = capture.repair_by_idle_time
        self._step_ms = max(1, SCAN_COUNT * 1_000 // capture.repair_keys_per_s_max)
        self._row = row
        self._connection: RespConnection | None = None
        self._wanted: list[Missed] = []
        self._current: Missed | None = None
        self._missing = routes_missing(Missed(0))
        self._is_narrowed = self._stamps_strings = False
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

    def oldest(self) -> Missed | None:
        """Return the earliest that was missed, and is not found."""
        return earliest((self._current, *self._wanted))

    def is_under_way(self) -> bool:
        """Tell whether a scan is wanted or not yet at its end."""
        return self._current is not None or bool(self._wanted)

    def wait_ms(self, moment_ms: int) -> int | None:
        """Return how long until the next step is due, None where none is."""
        return max(1, self._due_ms - moment_ms) if self.is_under_way() else None

    def advance(self, dirty: DirtyKeys, keys_max: int, sight: Sight, moment_ms: int, unix_ms: int) -> Missed | None:
        """Take one step if it is due and the dirty set holds less than ``keys_max``: live changes come first.

        ``sight`` is a look that the sentry took after the gap's end. Return what was missed when its scan has ended.
        """
        if moment_ms < self._due_ms or not self.is_under_way() or len(dirty) >= keys_max:
            return None
        self._due_ms = moment_ms + self._step_ms
        if not self._unmarked:
            try:
                self._step(sight, moment_ms)
            except RedisError as error:
                self._fail(error, moment_ms)
                return None
        self._mark(dirty, unix_ms)
        return self._finish(moment_ms) if self._cursor is None and not self._unmarked else None

    def _step(self, sight: Sight, moment_ms: int) -> None:
        """Scan on; a connection that was lost has lost its place too, so its scan begins again."""
        if self._connection is None:
            subscription = self._subscription
            self._connection = RespConnection.open(
                subscription.redis, name=subscription.name("repair"), protocol=2, database=subscription.database
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
        self._unmarked += self._newer(self._connection, [key for key in keys if self._feed.owns(key)])

    def _begin(self, connection: RespConnection, sight: Sight, moment_ms: int) -> None:
        self._current = current = self._wanted.pop(0)
        self._missing = routes_missing(current)
        self._cursor = b"0"
        self._began_ms = moment_ms
        self._marked = 0
        doubt = self._doubt(current, sight)
        self._is_narrowed, self._stamps_strings = not doubt, sight.stamps_strings
        # No class of last bytes matches the empty key.
        self._unmarked = [b""] if self._feed.takes_empty_key and connection.call("EXISTS", b"") == 1 else []
        size = connection.call("DBSIZE")
        self._row.set(Counter.KEYS_SCANNED, 0)
        self._row.set(Counter.KEYS_TO_SCAN, size if isinstance(size, int) else 0)
        log.info(
            "repair_begun",
            **self._subscription.who,
            since_ms=current.since_ms,
            keys=size,
            narrowed=not doubt,
            doubt=doubt or "none",
        )

    def _doubt(self, missed: Missed, sight: Sight) -> str:
        """Return why every key is to be marked, in words; "" where idle times tell which ones changed in the gap."""
        if missed.since_ms <= THE_BEGINNING_MS:
            return "all are wanted"
        if not self._by_idle_time:
            return "capture.repair_by_idle_time is off"
        if sight.doubt:
            return sight.doubt
        if not missed.clock_ms or sight.mark != missed.server_mark:
            return "the server is not known to be as it was when the gap began"
        return ""

    def _newer(self, connection: RespConnection, keys: list[bytes]) -> list[bytes]:
        """Return the keys that may have changed in the gap: all of them, unless their idle times speak against it."""
        missed = self._current
        assert missed is not None
        if not self._is_narrowed or not keys:
            return keys
        questions = [pack("OBJECT", "IDLETIME", key) for key in keys]
        # The time is asked after them: a step may have taken long, and idle times grow with it.
        *idle_s, time = connection.pipeline(b"".join(questions) + pack("TIME"), len(keys) + 1)
        refused = any(isinstance(reply, hiredis.ReplyError) and "no such key" not in str(reply) for reply in idle_s)
        limit_s = (
            None if refused or not isinstance(time, list) else idle_limit_s(missed, unix_ms_of(time), monotonic_ms())
        )
        if limit_s is None:
            self._is_narrowed = False
            return keys
        newer = [key for key, idle in zip(keys, idle_s, strict=True) if may_be_newer(idle, limit_s)]
        if self._stamps_strings or len(newer) == len(keys):
            return newer
        return newer + self._strings(connection, set(keys).difference(newer))

    def _strings(self, connection: RespConnection, keys: Collection[bytes]) -> list[bytes]:
        """Return those among the keys whose idle time may be another's, or date from before they were written."""
        replies = connection.pipeline(b"".join(pack("OBJECT", "ENCODING", key) for key in keys), len(keys))
        return [key for key, encoding in zip(keys, replies, strict=True) if encoding not in CONTAINERS]

    def _mark(self, dirty: DirtyKeys, unix_ms: int) -> None:
        assert self._current is not None
        keys = [key for key in self._unmarked if not self._is_nobodys(key)]
        mask_of, missing = self._mask_of, self._missing
        marked, self._unmarked = dirty.mark(keys, lambda key: mask_of(key) & missing(key), REPAIR, unix_ms)
        self._marked += marked
        self._row.add(Counter.KEYS_REPAIRED, marked)

    def _is_nobodys(self, key: bytes) -> bool:
        return key == KEEPSAKE or (bool(self._mapping_prefix) and key.startswith(self._mapping_prefix))

    def _finish(self, moment_ms: int) -> Missed:
        assert self._current is not None
        found, self._current = self._current, None
        self._row.add(Counter.REPAIRS, 1)
        self._row.set(Counter.KEYS_TO_SCAN, 0)
        took_ms = moment_ms - self._began_ms
        who = self._subscription.who
        log.info("repaired", **who, since_ms=found.since_ms, keys=self._marked, took_ms=took_ms)
        if not self._wanted:
            self.close()
        return found

    def _fail(self, error: RedisError, moment_ms: int) -> None:
        """Try again later, for ever: a gap that is given up would be a loss."""
        self.close()
        if self._current is not None:
            self.request(self._current)
            self._current = None
        self._failures += 1
        wait_ms = min(RETRY_MS_MAX, RETRY_MS_MIN << min(self._failures, 10))
        self._due_ms = moment_ms + wait_ms
        log.warning("repair_failed", **self._subscription.who, error=str(error), retry_in_ms=wait_ms)

    def close(self) -> None:
        """Close the connection; a scan that is wanted opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
