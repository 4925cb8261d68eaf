"""One feed in a subscriber's loop: what it hears goes into the subscriber's dirty set, what it missed is found.

Each feed has its own connection, gaps, repairs and watermark, by its own node's clock. So one that is in trouble holds
up its own watermark alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import hiredis

from engine.capture.feed.comparison import Comparison
from engine.capture.feed.gaps import Cause, Gaps, earliest
from engine.capture.feed.listener import Listener, Phase
from engine.capture.feed.repair import Repair
from engine.capture.feed.subscription import Subscription
from engine.capture.shared import Shared
from engine.capture.watch.sight import Change
from engine.clock import now_ms
from engine.errors import RedisError, RedisUnreachable
from engine.lifecycle import CompareWanted
from engine.model import NOTHING_HEARD, THE_BEGINNING_MS, Missed
from engine.observe.logs import get_logger
from engine.redis.connection import RespConnection
from engine.redis.errors import not_redis
from engine.redis.node import settings_for
from engine.ring.counters import Counter, GapReason
from engine.routing.feeds import Feed
from engine.routing.nodes import Node

log = get_logger(__name__)

FULL = "the dirty set is full: capture.dirty_keys_max"
DRAIN_SILENCE_MS_MAX = 2_000
"""A drain waits this long for a server that says nothing any more."""


class FeedReader:
    """A feed, and what is known of it: the ``keyspace`` source (`engine.capture.sources.base.Source`).

    ``missed`` is what nobody has heard in its place, to be found first; ``heard`` is what a gap would miss that begins
    at once.
    """

    def __init__(
        self,
        feed: Feed,
        shared: Shared,
        missed: Sequence[Missed],
        heard: Missed = NOTHING_HEARD,
        *,
        is_new: bool = False,
    ) -> None:
        """``is_new`` where the node was not there when the engine was started, and has looked at every other."""
        scope = shared.scope
        self.marked = heard
        """The watermark that is in all rings, and the server's mark then."""
        self._shared = shared
        self._subscription = self._subscription_to(feed)
        self._listener = Listener(self._subscription, shared.flags, is_unknown=is_new)
        prefix = self._subscription.databases.at_home(scope.mapping_prefix.encode()) if scope.mapping_prefix else b""
        self._repair = Repair(self._subscription, shared.table, prefix, scope.capture, shared.row)
        self._comparison = Comparison(shared.table, shared.wishes)
        self._gaps = Gaps(self._subscription.who, heard, shared.row)
        self._repair_from_look = 1
        """The look that a repair needs: one that follows its gap's end."""
        self._handed_ms = self._drain_began_ms = self._looks_heard = 0
        self._is_draining = False
        for one in missed:
            if one.since_ms != THE_BEGINNING_MS or one.slots:
                self._gaps.declare(GapReason.NOT_STARTED, "nobody listened", one.since_ms)
        self._hand(missed)

    def _subscription_to(self, feed: Feed) -> Subscription:
        scope = self._shared.scope
        at = settings_for(scope.redis, feed.node)
        return Subscription(at, scope.database, feed, scope.shard, scope.capture.read_bytes_max)

    @property
    def node(self) -> Node:
        """Return its node, as of the newest topology."""
        return self._subscription.feed.node

    def has_more(self) -> bool:
        """Tell whether more may be here than a poll of the sockets shows."""
        return self._listener.has_more()

    @property
    def has_listened(self) -> bool:
        """Tell whether the subscription was ever complete."""
        return self._listener.completions > 0

    @property
    def is_proved(self) -> bool:
        """Tell whether all that is published now is heard, as far as that can be known."""
        return self._listener.is_proved

    @property
    def is_closed(self) -> bool:
        """Tell whether the feed is listened to no more, for good."""
        return self._listener.phase is Phase.CLOSED

    def set_routes(self, missed: Sequence[Missed]) -> None:
        """Take the routes that all share now; ``missed`` is what new ones have to be given."""
        shared = self._shared
        self._repair.set_routes(shared.table)
        self._comparison.set_routes(shared.table)
        self.find(missed)
        self._listener.lookout.flags = shared.flags

    def _hand(self, missed: Sequence[Missed]) -> None:
        """Take over what nobody has heard of this feed, or of slots that it gained: no watermark is sent before."""
        self._handed_ms = max((self._handed_ms, *(one.since_ms for one in missed)))
        self.find(missed)

    def find(self, missed: Sequence[Missed]) -> None:
        """Have what was missed be found."""
        for one in missed:
            self._repair.request(one)

    def follow(self, feed: Feed, missed: Sequence[Missed], moment_ms: int) -> None:
        """Be this feed from now on: the same keys, in other slots perhaps, or read from another server."""
        was_listening = self._listener.phase is Phase.LISTENING
        self._subscription = self._subscription_to(feed)
        is_elsewhere = self._listener.follow(self._subscription, moment_ms)
        if is_elsewhere and was_listening:
            self._gaps.open(Cause.DEAF, GapReason.MOVED, "its node is now read at another server")
        self._repair.follow(self._subscription, is_elsewhere=is_elsewhere)
        self._hand(missed)

    def compared(self, number: int) -> None:
        """Note that what this wish of the subscriber asked for is done."""
        self._comparison.done(number)

    def listen(self, moment_ms: int, *, is_ready: bool = True) -> None:
        """Take in what one read brings, if anything ``is_ready``; raise `RedisError`."""
        listener, lookout = self._listener, self._listener.lookout
        if listener.advance(moment_ms, is_ready=is_ready):
            self._take_in(moment_ms)
        if listener.looks_taken != self._looks_heard and listener.watermark_ms:
            self._looks_heard = listener.looks_taken
            self._gaps.hear(lookout.outlook.missed_after(listener.watermark_ms))
        if lookout.has_found:
            for change in lookout.take_changes():
                self._missed_by(change)
            for reason in lookout.take_news():
                self._tell_of_topology(reason, moment_ms)
        if self._is_draining:
            self._end_drain(moment_ms)

    def _take_in(self, moment_ms: int) -> None:
        listener, shared = self._listener, self._shared
        assert listener.connection is not None
        try:
            intake = shared.take_in(listener.next_reply(), moment_ms)
        except hiredis.ProtocolError as error:
            raise not_redis(listener.connection.address, error) from error
        # What is dropped is missed by the feed that has read it, and by no other.
        has_room = not intake.dropped
        shared.dirty.forget(listener.lookout.own_keys)
        for key, event in intake.marks:
            has_room = shared.mark_dirty(key, event.decode()) and has_room
        if not has_room:
            self._overflow()
        for reply in intake.others:
            if listener.handle(reply):
                self._is_listening(moment_ms)
        listener.count_lag(shared.row.lags, intake.read)

    def _missed_by(self, change: Change) -> None:
        """Declare a gap that the connection did not tell: flags that were switched, a keyspace that was flushed."""
        if not self._gaps.is_open(Cause.DEAF):
            self._gaps.open(Cause.DEAF, _kind_of(change), "; ".join(change.reasons))
        if change.is_deaf:
            log.error("events_off", **self._subscription.who, hint="see redis.set_notifications")
        if not (change.is_deaf or change.is_unsettled):
            self._end_gap(Cause.DEAF, self._listener.looks_taken)

    def advance_repair(self, moment_ms: int) -> None:
        """Scan on while somebody listens: only then is what the scan has passed heard when it changes again."""
        if not self._repair.is_under_way() or self._listener.phase is not Phase.LISTENING or self._is_draining:
            return
        if self._gaps.is_open(Cause.DEAF) or self._listener.looks_taken < self._repair_from_look:
            return
        keys_max = max(1, self._shared.scope.capture.dirty_keys_max // 2)
        sight = self._listener.lookout.outlook.sight
        found = self._repair.advance(self._shared.dirty, keys_max, sight, moment_ms, now_ms())
        if found is not None:
            self._comparison.want(found)

    def _overflow(self) -> None:
        if not self._gaps.is_open(Cause.FULL):
            self._gaps.open(Cause.FULL, GapReason.DIRTY_SET_FULL, FULL)
            self._shared.overflown.append(self.there_is_room)

    def _end_gap(self, cause: Cause, from_look: int) -> None:
        """Have a repair find what was missed, beginning after this look."""
        if (missed := self._gaps.end(cause)) is not None:
            self._repair.request(missed)
            self._repair_from_look = from_look

    def there_is_room(self) -> None:
        """Note that the dirty set has room again."""
        if self._gaps.is_open(Cause.FULL):
            self._end_gap(Cause.FULL, self._listener.looks_asked + 1)

    def reached(self) -> Missed | None:
        """Return up to when everything was heard or found, where that is another moment than the one in the rings.

        To be asked while nothing is dirty. Slots that were gained hold it up until all of their keys are found: a
        watermark speaks for all slots of its feed.
        """
        if self._comparison.is_wanted and self._gaps.oldest() is None and (number := self._comparison.ask()):
            self._shared.report(CompareWanted(number))
        # A debt only holds up.
        if self._gaps.heard.since_ms == self.marked.since_ms:
            return None
        if self._repair.lacks_slots() or self._comparison.lacks_slots():
            return None
        debt = earliest((self._gaps.oldest(), self._repair.oldest(), self._comparison.oldest()))
        reached = earliest((self._gaps.heard, debt))
        # A server's clock that goes back takes the watermark with it, a debt never does.
        if reached is None or reached.since_ms == self.marked.since_ms:
            return None
        if debt is not None and reached.since_ms < max(self.marked.since_ms, self._handed_ms + 1):
            return None
        return reached

    def _is_listening(self, moment_ms: int) -> None:
        """The subscription is complete: the gap, if there was one, ends here."""
        if self._gaps.is_open(Cause.DEAF):
            log.info("listening_again", **self._subscription.who)
            self._end_gap(Cause.DEAF, self._listener.looks_asked + 1)
        if self._listener.completions > 1:
            self._shared.row.add(Counter.RECONNECTS, 1)
            if self._shared.scope.mapping_prefix:
                self._shared.notices.mappings_changed(moment_ms)

    def lose(self, error: RedisError, moment_ms: int) -> None:
        """Declare the gap once, and try again later, forever; a drain takes what there is."""
        listener = self._listener
        if listener.phase is Phase.LISTENING:
            self._gaps.open(Cause.DEAF, GapReason.DISCONNECTED, "the connection was lost")
        wait_ms = listener.lost(moment_ms)
        who, attempt = self._subscription.who, listener.failures
        log.warning("connection_lost", **who, error=str(error), attempt=attempt, retry_in_ms=wait_ms)
        self._tell_of_topology(str(error), moment_ms)
        if self._is_draining:
            listener.close()

    def _tell_of_topology(self, reason: str, moment_ms: int) -> None:
        node = self._subscription.feed.node
        place = f"{node.place}: " if node.address else ""
        self._shared.notices.topology_changed(f"{place}{reason}", moment_ms)

    def start_drain(self, moment_ms: int) -> None:
        """Ask for a pong: everything published before the ping was processed arrives before it."""
        self._is_draining = True
        self._drain_began_ms = moment_ms
        try:
            if not self._listener.ask_for_the_end(moment_ms):
                self._listener.close()
        except RedisError as error:
            self.lose(error, moment_ms)

    def _end_drain(self, moment_ms: int) -> None:
        """Stop listening once all that was asked for is here, or the server says nothing any more."""
        if self.is_closed:
            return
        if self._listener.is_drained:
            self._listener.close()
        elif moment_ms - self._drain_began_ms > DRAIN_SILENCE_MS_MAX:
            raise RedisUnreachable("the server does not answer during the drain")

    def close(self) -> None:
        """Listen no more; what was read goes its way."""
        self._listener.close()
        self._repair.close()

    def sockets(self) -> list[RespConnection]:
        """Return the connections that something may come from."""
        return self._listener.sockets() + self._repair.sockets()

    def due_ms(self, moment_ms: int) -> int:
        """Return when (monotonic) something is to be done that no readable socket announces."""
        return min(self._listener.due_ms(moment_ms), self._repair.due_ms(moment_ms))


def _kind_of(change: Change) -> GapReason:
    return GapReason.DATASET if change.is_dataset else GapReason.EVENTS_OFF
