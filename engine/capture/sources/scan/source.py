"""The ``scan`` source: a repair that never ends.

A pass marks every key that a route wants; invokers read it, and deliver what differs from what was last accepted
(`skip_unchanged`). So digests of what the destination received show what changed, and nothing that a pass has marked
can be lost: it is in the rings, or the watermark stands.

**The watermark.** Whatever changed before a pass began is found by it. So once its marks are in the rings the watermark
is the moment at which it began, by the server's clock. An interrupted pass proves nothing: the next one begins anew.

**Keys that are gone.** A name is kept on disk before its key is marked for the first time. A name that a pass has not
found, and whose key does not exist, is marked as gone, within the limit of `capture.deletions_found_share_max`; it is
forgotten once that is settled in all rings.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from engine.capture.feed.exchange import Reach
from engine.capture.feed.scan import Questions
from engine.capture.feed.subscription import Subscription
from engine.capture.own_keys import is_own
from engine.capture.shared import Shared
from engine.capture.sources.scan.departed import Departed
from engine.capture.sources.scan.pace import Pace
from engine.capture.sources.scan.sweep import Sweep
from engine.capture.waiting import BEAT_MS_MAX
from engine.clock import now_ms
from engine.digests.names import NamesBroken
from engine.errors import RedisError, RedisUnreachable
from engine.model import FORCED, NOTHING_HEARD, THE_BEGINNING_MS, Missed
from engine.observe.logs import get_logger
from engine.redis.connection import RespConnection
from engine.redis.node import settings_for
from engine.ring.counters import Counter
from engine.routing.events import REPAIR
from engine.routing.feeds import Feed
from engine.routing.nodes import NODES_MAX, Node
from engine.routing.slices import parse_slice

log = get_logger(__name__)

RETRY_MS_MIN, RETRY_MS_MAX = 50, 5_000
LOOK_MS = 5
NUMBERS_BELOW = 1 << 60
"""Passes are numbered by time, in milliseconds, and by node: a successor's are higher, and no other node has them."""


class ScanSource:
    """One feed's: see `engine.capture.sources.base.Source`. ``missed`` is what the first pass has to find."""

    def __init__(self, feed: Feed, shared: Shared, missed: Sequence[Missed], heard: Missed = NOTHING_HEARD) -> None:
        capture = shared.scope.capture
        self.marked = heard
        self.has_listened = self.is_closed = False
        self._shared = shared
        self._subscription = self._subscription_to(feed)
        self._pace = Pace(round(capture.scan_period_s_max * 1_000), capture.repair_keys_per_s_max)
        self._reach = Reach()
        self._questions: Questions[list[bytes]] | None = None
        self._sweep: Sweep | None = None
        self._unmarked: list[bytes] = []
        # A mark that another source left is not ours.
        before = max(shared.settled_mark(feed.node.number), heard.server_mark)
        self._number = before if before < NUMBERS_BELOW else 0
        self._claim: Missed | None = None
        """Everything before this was found, by a pass that is over."""
        self._asked = self._begun = self._served = 0
        """Requests: all, those that the present pass serves, and served ones. A pass serves requests made before it."""
        self._is_foreign = False
        """Whether keys may be new here that another engine delivered before."""
        self._failures = self._marked = 0
        self._departed = Departed(shared, self._subscription)
        self._take_routes()
        self.find(missed)

    def _subscription_to(self, feed: Feed) -> Subscription:
        scope = self._shared.scope
        redis = settings_for(scope.redis, feed.node)
        return Subscription(redis, scope.database, feed, scope.shard, scope.capture.read_bytes_max)

    @property
    def node(self) -> Node:
        """Return its node, as of the newest topology."""
        return self._subscription.feed.node

    @property
    def is_proved(self) -> bool:
        """Tell whether passes go on: the newest answer of the node was one."""
        return self.has_listened and not self._failures

    # What is wanted

    def set_routes(self, missed: Sequence[Missed]) -> None:
        """Mark for the routes that all feeds share now; new ones receive everything in the next pass."""
        self._take_routes()
        self._asked += 1
        self.find(missed)

    def _take_routes(self) -> None:
        self._wants = self._shared.table.for_repairs().mask
        self._departed.take_routes()

    def find(self, missed: Sequence[Missed]) -> None:
        """Let a pass that begins later find what was missed; until then no watermark is sent."""
        if missed:
            self._asked += 1
            is_strange = any(one.slots or one.since_ms <= THE_BEGINNING_MS for one in missed)
            is_of_many = parse_slice(self._shared.scope.capture.slice).count > 1
            self._is_foreign = self._is_foreign or (is_strange and is_of_many)

    def follow(self, feed: Feed, missed: Sequence[Missed], moment_ms: int) -> None:
        """Be this feed from now on; a pass over another server, or other slots, begins anew."""
        before, self._subscription = self._subscription, self._subscription_to(feed)
        self._departed.follow(self._subscription)
        if before.leads_elsewhere(self._subscription) or before.feed.node.slots != feed.node.slots:
            self._asked += 1
            self._give_up()
            self._pace.retry(moment_ms, 0)
        self.find(missed)

    def compared(self, number: int) -> None:
        """Nothing is compared: names that are not found show what is gone."""

    # The loop

    def listen(self, moment_ms: int, *, is_ready: bool = True) -> None:
        """Continue the pass, as far as possible at once; raise `RedisError`."""
        if self.is_closed:
            return
        self._departed.forget_settled()
        if not self._is_connected(moment_ms):
            return
        try:
            self._go_on(moment_ms)
        except NamesBroken as error:
            # Without names no deletion would ever be found: the watermark stands until the disk works again.
            raise RedisUnreachable(error.message, hint=error.hint) from error

    def _go_on(self, moment_ms: int) -> None:
        if self._questions is not None:
            replies = self._reach.exchange.poll(moment_ms)
            if replies is not None:
                self._ask(replies, moment_ms)
        elif self._unmarked:
            self._mark()
        elif self._sweep is not None and self._sweep.is_over:
            self._end(self._sweep, moment_ms)
        elif self._pace.is_due(moment_ms) and self._has_room():
            self._begin_step(moment_ms)

    def _has_room(self) -> bool:
        return len(self._shared.dirty) < max(1, self._shared.scope.capture.dirty_keys_max // 2)

    def _is_connected(self, moment_ms: int) -> bool:
        if not (self._reach.is_begun or self._pace.is_due(moment_ms)):
            return False
        subscription = self._subscription
        return self._reach.is_open(subscription.open_for_repairs, subscription.redis.read_timeout_ms)

    def _begin_step(self, moment_ms: int) -> None:
        if self._sweep is None:
            step = max(self._number // NODES_MAX + 1, time.time_ns() // 1_000_000)
            self._number = step * NODES_MAX + self.node.number
            self._begun, self._marked = self._asked, 0
            self._sweep = Sweep(self._subscription, self._number, self._departed.names(), self._departed.is_named)
            self._questions = self._sweep.begin()
        else:
            self._questions = self._sweep.step()
        self._ask(None, moment_ms)

    def _ask(self, replies: list[object] | None, moment_ms: int) -> None:
        assert self._questions is not None
        assert self._sweep is not None
        before, is_first = self._sweep.looked_at, not self._sweep.is_begun
        try:
            commands, count = next(self._questions) if replies is None else self._questions.send(replies)
        except StopIteration as end:
            self._questions = None
            self._failures = 0
            if is_first:
                self._has_begun(self._sweep, moment_ms)
            self._pace.spend(max(self._sweep.looked_at - before, 1), moment_ms)
            self._unmarked = [key for key in end.value if not is_own(key)]
            self._mark()
            return
        self._reach.exchange.ask(commands, count, moment_ms)

    def _has_begun(self, sweep: Sweep, moment_ms: int) -> None:
        capture = self._shared.scope.capture
        self.has_listened = True
        self._pace.begin(sweep.size, moment_ms)
        if sweep.size > capture.repair_keys_per_s_max * capture.scan_period_s_max:
            log.warning(
                "scan_too_slow", **self._subscription.who, keys=sweep.size, period_s=capture.scan_period_s_max,
                hint="raise capture.scan_period_s_max, or capture.repair_keys_per_s_max where the server bears it",
            )  # fmt: skip

    def _mark(self) -> None:
        flag, wants = FORCED if self._is_foreign else 0, self._wants
        marked, self._unmarked = self._shared.dirty.mark(
            self._unmarked, lambda key: flag | mask if (mask := wants(key)) else 0, REPAIR, now_ms()
        )
        self._marked += marked
        self._shared.row.add(Counter.KEYS_REPAIRED, marked)

    # The end of a pass

    def _end(self, sweep: Sweep, moment_ms: int) -> None:
        """End a pass, once all that is gone is dirty too."""
        if not self._departed.mark(sweep):
            return
        took_ms = self._pace.end(moment_ms)
        self._claim, self._served = Missed(sweep.since_ms, sweep.number), self._begun
        if self._served == self._asked:
            self._is_foreign = False
        self._sweep = None
        self._shared.row.add(Counter.REPAIRS, 1)
        log.debug(
            "pass", **self._subscription.who, keys=self._marked, gone=sweep.gone, took_ms=took_ms,
            keys_per_s=self._pace.keys_per_s,
        )  # fmt: skip

    def reached(self) -> Missed | None:
        """Return when the newest completed pass began, unless a request waits for one that begins later."""
        claim = self._claim
        if claim is None or self._served < self._asked or claim == self.marked:
            return None
        return claim

    def advance_repair(self, moment_ms: int) -> None:
        """A pass finds what was missed."""

    # The connection

    def lose(self, error: RedisError, moment_ms: int) -> None:
        """Begin the pass anew, later: a cursor means something only to the process that gave it."""
        self._give_up()
        self._failures += 1
        bound_ms = min(RETRY_MS_MAX, RETRY_MS_MIN << min(self._failures, 10))
        wait_ms = int(RETRY_MS_MIN + (bound_ms - RETRY_MS_MIN) * random.random())
        self._pace.retry(moment_ms, wait_ms)
        who, node = self._subscription.who, self._subscription.feed.node
        log.warning("connection_lost", **who, error=str(error), attempt=self._failures, retry_in_ms=wait_ms)
        self._shared.row.add(Counter.RECONNECTS, 1)
        place = f"{node.place}: " if node.address else ""
        self._shared.notices.topology_changed(f"{place}{error}", moment_ms)

    def _give_up(self) -> None:
        self._reach.close()
        self._questions = self._sweep = None
        # What was found stays valid; finding it again costs a look.
        self._unmarked = []

    def start_drain(self, moment_ms: int) -> None:
        """Close: the next start begins a pass."""
        self.close()

    def close(self) -> None:
        """Take in no more."""
        self._give_up()
        self.is_closed = True
        self._departed.close()

    def has_more(self) -> bool:
        """Say that a poll shows everything."""
        return False

    def sockets(self) -> list[RespConnection]:
        """Return the connection, where answers are awaited."""
        return self._reach.sockets()

    def due_ms(self, moment_ms: int) -> int:
        """Return when (monotonic) something is to be done that no readable socket announces."""
        if self._reach.is_unannounced():
            return moment_ms + LOOK_MS
        is_waiting = bool(self._unmarked) or (self._sweep is not None and self._sweep.is_over)
        wait_ms = LOOK_MS if is_waiting else BEAT_MS_MAX if self.sockets() else self._pace.wait_ms(moment_ms)
        # Nothing announces what the rings have settled.
        return moment_ms + min(wait_ms, BEAT_MS_MAX)
