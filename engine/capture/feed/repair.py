"""Gaps → dirty keys: a paced scan of what a feed was not listening to.

A gap says that *some* keys of a feed may have changed unheard. Every key of the feed that a route wants is marked
dirty, and goes the way of all dirty keys: merged with what is live, read when it is delivered, bounded by the same
set. A gap that begins while a scan is under way is covered by another scan, from the beginning: keys that the first
one has passed may have changed since.

**Narrowing.** A scan passes over keys whose idle times say that they did not change in the gap, where those can be
believed (`engine.capture.watch.trust`). Everywhere else every key of the feed is marked. What speaks against it only
while the scan is under way is a gap of its own.

What a scan cannot find is a key that was deleted in the gap: it is not there any more. `engine.audit` finds those.
"""

from __future__ import annotations

from engine.capture.dirty import DirtyKeys
from engine.capture.feed.exchange import Reach
from engine.capture.feed.gaps import earliest
from engine.capture.feed.missed import is_alike, merge, routes_missing
from engine.capture.feed.scan import SCAN_COUNT, Questions, Scan
from engine.capture.feed.subscription import Subscription
from engine.capture.own_keys import is_own
from engine.capture.watch.sight import Sight
from engine.config import CaptureSettings
from engine.errors import RedisError
from engine.model import FORCED, THE_BEGINNING_MS, Missed, RouteMask
from engine.observe.logs import get_logger
from engine.redis.connection import RespConnection
from engine.ring.counters import Counter, StatusRow
from engine.routing.events import REPAIR
from engine.routing.routes import RouteTable
from engine.routing.slices import parse_slice
from engine.routing.streams import streams_of

log = get_logger(__name__)

RETRY_MS_MIN, RETRY_MS_MAX = 200, 30_000
NEVER_MS = 1 << 62
LOOK_MS = 5
"""How often is looked for what no readable socket announces: a thread that connects, a server that takes commands."""


class Repair:
    """The scans of one feed, one step a turn of its subscriber's loop; never waits, nor raises for the server's sake.

    What was missed since a moment, slots that were gained, and the whole keyspace for routes that begin with it, are
    scans of their own: the last two mark everything.
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
        self._mask_of = table.for_repairs().mask
        self._mapping_prefix = mapping_prefix
        self._streams = frozenset(streams_of(capture))
        self._by_idle_time = capture.repair_by_idle_time
        self._step_ms = max(1, SCAN_COUNT * 1_000 // capture.repair_keys_per_s_max)
        self._row = row
        self._reach = Reach()
        self._questions: Questions[list[bytes]] | None = None
        self._wanted: list[Missed] = []
        self._scan: Scan | None = None
        self._missing = routes_missing(Missed(0))
        self._is_of_many = parse_slice(capture.slice).count > 1
        self._flag: RouteMask = 0
        self._unmarked: list[bytes] = []
        self._began_ms = self._due_ms = 0
        self._marked = self._failures = 0
        self._shown = (0, 0)

    def set_routes(self, table: RouteTable) -> None:
        """Mark for these routes from now on."""
        self._mask_of = table.for_repairs().mask

    def request(self, missed: Missed) -> None:
        """Ask for a scan that begins after now."""
        for index, known in enumerate(self._wanted):
            if is_alike(known, missed):
                self._wanted[index] = merge(known, missed)
                return
        self._wanted.append(missed)

    def _debts(self) -> tuple[Missed, ...]:
        return (self._scan.missed, *self._wanted) if self._scan is not None else tuple(self._wanted)

    def oldest(self) -> Missed | None:
        """Return the earliest that was missed, and is not found."""
        return earliest(self._debts())

    def lacks_slots(self) -> bool:
        """Tell whether slots that were gained are not all found."""
        return any(missed.slots for missed in self._debts())

    def is_under_way(self) -> bool:
        """Tell whether a scan is wanted or not yet at its end."""
        return self._scan is not None or bool(self._wanted)

    @property
    def is_waiting(self) -> bool:
        """Tell whether the node has to answer before anything else."""
        return self._reach.is_connecting or self._questions is not None

    def sockets(self) -> list[RespConnection]:
        """Return the connections whose answers the next step waits for."""
        return self._reach.sockets()

    def due_ms(self, moment_ms: int) -> int:
        """Return when (monotonic) something is due that no readable socket announces, `NEVER_MS` where nothing is."""
        if not self.is_under_way():
            return NEVER_MS
        if self._reach.is_unannounced():
            return moment_ms + LOOK_MS
        return NEVER_MS if self.sockets() else max(moment_ms + 1, self._due_ms)

    def advance(self, dirty: DirtyKeys, keys_max: int, sight: Sight, moment_ms: int, unix_ms: int) -> Missed | None:
        """Go on as far as that is possible at once, with steps only while the dirty set holds less than ``keys_max``:
        live changes come first.

        ``sight`` is a look that the sentry took after the gap's end. Return what was missed when its scan has ended.
        """
        try:
            if self._questions is not None:
                is_stepped = self._hear(moment_ms)
            elif not (self._is_due(moment_ms) and len(dirty) < keys_max and self._is_connected()):
                return None
            else:
                self._due_ms = moment_ms + self._step_ms
                is_stepped = bool(self._unmarked) or self._step(sight, moment_ms)
        except RedisError as error:
            self._fail(error, moment_ms)
            return None
        if is_stepped:
            self._mark(dirty, unix_ms)
        assert self._scan is not None
        is_found = self._scan.is_over and self._questions is None and not self._unmarked
        return self._finish(moment_ms) if is_found else None

    def _is_due(self, moment_ms: int) -> bool:
        return self.is_under_way() and moment_ms >= self._due_ms

    def _is_connected(self) -> bool:
        """Connect, beside the loop; a connection that was lost has lost its place, so its scan begins again."""
        subscription = self._subscription
        return self._reach.is_open(subscription.open_for_repairs, subscription.redis.read_timeout_ms)

    def _step(self, sight: Sight, moment_ms: int) -> bool:
        """Begin a step; return True if it is over already."""
        if self._scan is None:
            self._scan = self._begin(sight, moment_ms)
            self._questions = self._scan.begin()
        else:
            self._questions = self._scan.step()
        return self._ask(None, moment_ms)

    def _hear(self, moment_ms: int) -> bool:
        """Take in answers, and ask on; return True once the step is over."""
        replies = self._reach.exchange.poll(moment_ms)
        return replies is not None and self._ask(replies, moment_ms)

    def _ask(self, replies: list[object] | None, moment_ms: int) -> bool:
        assert self._questions is not None
        assert self._scan is not None
        try:
            # The first time there is nothing to hand in.
            commands, count = next(self._questions) if replies is None else self._questions.send(replies)
        except StopIteration as end:
            self._questions = None
            self._failures = 0
            self._unmarked += end.value
            # Whoever has looked at more keys than a SCAN does waits longer for the next step.
            scans = (self._scan.looked_at - self._shown[0]) // SCAN_COUNT
            self._due_ms += max(0, scans - 1) * self._step_ms
            self._row.add(Counter.KEYS_LOOKED_AT, self._scan.looked_at - self._shown[0])
            self._show(self._scan.looked_at, self._scan.size)
            return True
        self._reach.exchange.ask(commands, count, moment_ms)
        return False

    def _begin(self, sight: Sight, moment_ms: int) -> Scan:
        missed = self._wanted.pop(0)
        self._missing = routes_missing(missed)
        # Of keys that another host had, nobody here knows what was delivered last.
        is_foreign = self._is_of_many and (bool(missed.slots) or missed.since_ms <= THE_BEGINNING_MS)
        self._flag = FORCED if is_foreign else 0
        self._began_ms = moment_ms
        self._marked = 0
        doubt = self._doubt(missed, sight)
        who, since_ms, slots = self._subscription.who, missed.since_ms, {"slots": missed.slots} if missed.slots else {}
        log.info("repair_begun", **who, since_ms=since_ms, **slots, narrowed=not doubt, doubt=doubt or "none")
        return Scan(self._subscription, missed, is_narrowed=not doubt, stamps_strings=sight.stamps_strings)

    def _doubt(self, missed: Missed, sight: Sight) -> str:
        """Return why every key is to be marked, in words; "" where idle times tell which ones changed in the gap."""
        if missed.since_ms <= THE_BEGINNING_MS or missed.slots:
            return "all keys are wanted"
        if not self._by_idle_time:
            return "capture.repair_by_idle_time is off"
        if sight.doubt:
            return sight.doubt
        if not missed.clock_ms or sight.mark != missed.server_mark:
            return "the server is not known to be as it was when the gap began"
        return ""

    def _mark(self, dirty: DirtyKeys, unix_ms: int) -> None:
        name_of = self._subscription.databases.split
        keys = [key for key in self._unmarked if not (is_own(name_of(key)[1]) or self._is_nobodys(key))]
        mask_of, missing = self._mask_of, self._missing
        flag = self._flag
        marked, self._unmarked = dirty.mark(
            keys, lambda key: flag | mask if (mask := mask_of(key) & missing(key)) else 0, REPAIR, unix_ms
        )
        self._marked += marked
        self._row.add(Counter.KEYS_REPAIRED, marked)

    def _is_nobodys(self, key: bytes) -> bool:
        return key in self._streams or (bool(self._mapping_prefix) and key.startswith(self._mapping_prefix))

    def _show(self, scanned: int, to_scan: int) -> None:
        """Show how far the scan is; other feeds of the subscriber count in the same words."""
        self._row.add(Counter.KEYS_SCANNED, scanned - self._shown[0])
        self._row.add(Counter.KEYS_TO_SCAN, to_scan - self._shown[1])
        self._shown = scanned, to_scan

    def _finish(self, moment_ms: int) -> Missed:
        assert self._scan is not None
        found, self._scan = self._scan.missed, None
        self._row.add(Counter.REPAIRS, 1)
        self._show(0, 0)
        took_ms = moment_ms - self._began_ms
        who = self._subscription.who
        log.info("repaired", **who, since_ms=found.since_ms, keys=self._marked, took_ms=took_ms)
        if not self._wanted:
            self.close()
        return found

    def _fail(self, error: RedisError, moment_ms: int) -> None:
        """Try again later, forever: a gap that is given up would be a loss."""
        self._begin_again()
        self._failures += 1
        wait_ms = min(RETRY_MS_MAX, RETRY_MS_MIN << min(self._failures, 10))
        self._due_ms = moment_ms + wait_ms
        log.warning("repair_failed", **self._subscription.who, error=str(error), retry_in_ms=wait_ms)

    def _begin_again(self) -> None:
        self.close()
        if self._scan is not None:
            self.request(self._scan.missed)
            self._scan = None
        self._unmarked.clear()

    def follow(self, subscription: Subscription, *, is_elsewhere: bool) -> None:
        """Look for what is missed there from now on; another server has another order of keys."""
        self._subscription = subscription
        if is_elsewhere:
            self._begin_again()
        elif self._scan is not None:
            self._scan.subscription = subscription

    def close(self) -> None:
        """Close the connection; a scan that is wanted opens another."""
        self._reach.close()
        self._questions = None
        self._show(0, 0)
