"""The ``stream`` source: consumer groups on the streams of one feed.

The streams keep what is not read, and the group what is not acknowledged: nothing is lost while no engine reads, and a
source that falls behind stops reading. Entries are acknowledged once everything that they stand for is settled, which
the rings' watermarks say. What was removed from a stream before it was read is a gap, which is counted and reported; if
entries name keys, a scan of the feed's node finds what changed in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from engine.capture.feed.repair import Repair
from engine.capture.feed.subscription import Subscription
from engine.capture.shared import Shared
from engine.capture.sources.stream.desk import Desk
from engine.capture.sources.stream.followed import Followed, followed
from engine.capture.sources.stream.histories import Histories
from engine.capture.sources.stream.line import Line
from engine.capture.sources.stream.standing import Account
from engine.capture.waiting import BEAT_MS_MAX
from engine.capture.watch.sight import Sight
from engine.clock import now_ms
from engine.errors import RedisError
from engine.lifecycle import StreamsSettled
from engine.model import NOTHING_HEARD, THE_BEGINNING_MS, Missed, StreamKept
from engine.observe.logs import get_logger
from engine.redis.connection import READ_BYTES, RespConnection
from engine.redis.node import role_of, settings_for
from engine.ring.counters import Counter
from engine.routing.feeds import Feed
from engine.routing.nodes import Node, slot_of

log = get_logger(__name__)

MARK_MS = 300
"""How often entries are closed under a mark. `MARKS_OF_A_REPAIR` of these are longer than a wish for a repair takes."""
DRAIN_MS_MAX = 5_000
"""How long a drain waits for what was read to be settled and acknowledged; the rest is read again at the next start."""
POSITIONS_MS = 1_000
DIRTY_MAX = 50_000
"""Past this many dirty keys nothing more is read: the rings are full, and the streams keep what arrives."""


class StreamSource:
    """The streams of one feed (`engine.capture.sources.base.Source`).

    ``is_new``: another node, or another process, had them before while the engine ran.
    """

    def __init__(self, feed: Feed, shared: Shared, heard: Missed = NOTHING_HEARD, *, is_new: bool = False) -> None:
        self.marked = heard
        self._shared, self._row = shared, shared.row
        self._subscription = self._subscription_to(feed)
        self._streams = {name: followed(name, shared.streams, is_new=is_new) for name in feed.streams}
        self._histories = Histories(self._streams.values())
        consumer = consumer_of(shared.scope.capture.slice)
        self._desk = Desk(shared, consumer, self._subscription.who, self._histories)
        self._lines = self._lines_of(feed)
        self._losing: Line | None = None
        self._opened: set[bytes] = set()
        prefix = shared.scope.mapping_prefix.encode()
        self._repair = Repair(self._subscription, shared.table, prefix, shared.scope.capture, shared.row)
        self._holds = False
        """Whether no watermark counts until pending entries are read again, and a repair is done: a part was lost."""
        self._moment_ms = self._mark_due_ms = self._report_due_ms = self._drain_began_ms = 0
        self._reported: dict[str, StreamKept] = {}
        self._is_draining = self.is_closed = False

    def _subscription_to(self, feed: Feed) -> Subscription:
        scope = self._shared.scope
        return Subscription(settings_for(scope.redis, feed.node), scope.database, feed, scope.shard, READ_BYTES)

    def _lines_of(self, feed: Feed) -> list[Line]:
        """Return one connection for all streams, in a cluster one per slot: a command's keys must be in one slot."""
        groups: dict[int, list[Followed]] = {}
        for name in feed.streams:
            groups.setdefault(slot_of(name) if feed.node.id else 0, []).append(self._streams[name])
        limit_ms = self._subscription.redis.read_timeout_ms
        connect: Callable[[], RespConnection] = partial(_open, self._subscription)
        return [Line(streams, self._desk, connect, limit_ms) for streams in groups.values()]

    @property
    def node(self) -> Node:
        """Return the feed's node."""
        return self._subscription.feed.node

    @property
    def has_listened(self) -> bool:
        """Tell whether all groups were there once."""
        return all(line.openings for line in self._lines)

    @property
    def is_proved(self) -> bool:
        """Tell whether all streams are read."""
        return all(one.has_group and one.cursor is None for one in self._streams.values())

    def has_more(self) -> bool:
        """Tell whether more may be here than a poll of the sockets shows."""
        return any(line.has_more() for line in self._lines)

    # The way in

    def listen(self, moment_ms: int, *, is_ready: bool = True) -> None:
        """Take in what was read, acknowledge what is settled; raise `RedisError`."""
        if self.is_closed:
            return
        self._moment_ms = self._desk.moment_ms = moment_ms
        self._settle()
        for line in self._lines:
            openings = line.openings
            self._losing = line
            line.advance(moment_ms, self._room(len(line.streams)))
            if line.openings > max(openings, 1):
                self._row.add(Counter.RECONNECTS, 1)
                log.info("listening_again", **self._subscription.who)
        self._losing = None
        if (lost := self._desk.take_lost(in_slots=bool(self.node.id))) is not None:
            self._repair.request(lost)
            self._report_due_ms = 0
        self._tell(moment_ms)
        if self._is_draining:
            self._end_drain(moment_ms)

    def _room(self, streams: int) -> int:
        """Return how many entries of each of so many streams may be read."""
        capture, dirty = self._shared.scope.capture, len(self._shared.dirty)
        is_full = (
            dirty > min(capture.dirty_keys_max // 2, DIRTY_MAX)
            or self._desk.ledger.count >= capture.unsettled_entries_max
        )
        if is_full or self._is_draining:
            return 0
        return max(1, min(capture.read_entries_max, (capture.dirty_keys_max - dirty) // streams))

    def _settle(self) -> None:
        """Acknowledge what all rings have settled."""
        mark = self._shared.settled_mark(self.node.number)
        self._histories.settle(mark)
        settled = self._desk.ledger.settle(mark)
        for name, ids in settled.items():
            if (stream := self._streams.get(name)) is not None:
                stream.acks += ids

    def lose(self, error: RedisError, moment_ms: int) -> None:
        """Try again later, forever: what was not acknowledged is read again."""
        for line in [self._losing] if self._losing is not None else self._lines:
            wait_ms = line.lose(moment_ms)
            who = self._subscription.who
            log.warning("connection_lost", **who, error=str(error), attempt=line.failures, retry_in_ms=wait_ms)
        self._losing = None
        node = self._subscription.feed.node
        self._shared.notices.topology_changed(f"{node.place}: {error}" if node.address else str(error), moment_ms)

    # What was missed

    def find(self, missed: Sequence[Missed]) -> None:
        """Read again what is pending: a part of a ring, or of a backlog, was lost. Of the latter, all may be meant."""
        self._holds = True
        is_all = any(one.since_ms == THE_BEGINNING_MS for one in missed)
        for stream in self._streams.values():
            self._desk.forget(stream)
            stream.read_pending((), is_counting=False)
            stream.sets_back = is_all and self._desk.shape.carries
        self._desk.has_gap |= is_all

    def advance_repair(self, moment_ms: int) -> None:
        """Continue scanning while the lines read."""
        if self._is_draining or not self._repair.is_under_way() or not all(line.is_connected for line in self._lines):
            return
        keys_max = max(1, self._shared.scope.capture.dirty_keys_max // 2)
        self._repair.advance(self._shared.dirty, keys_max, Sight(0), moment_ms, now_ms())

    def compared(self, number: int) -> None:
        """Nothing is compared for streams."""

    def set_routes(self, missed: Sequence[Missed]) -> None:
        """Take the routes that all share now: a new one begins where the group is."""
        self._repair.set_routes(self._shared.table)

    def reached(self) -> Missed | None:
        """Return up to when everything was read, and the mark that all entries before are under."""
        if self._holds:
            if self._repair.is_under_way() or any(one.cursor is not None for one in self._streams.values()):
                return None
            self._holds = False
        ledger = self._desk.ledger
        if self._histories.is_owing and not self._repair.is_under_way():
            self._histories.pay(ledger.close_behind())
        if self._is_draining or self._moment_ms >= self._mark_due_ms:
            if ledger.has_open:
                self._mark_due_ms = self._moment_ms + MARK_MS
            ledger.close()
        since_ms = self._caught_up_ms()
        if (since_ms, ledger.mark) == (self.marked.since_ms, self.marked.server_mark):
            return None
        return Missed(since_ms, ledger.mark, clock_ms=max((line.ahead_ms for line in self._lines), default=0))

    def _caught_up_ms(self) -> int:
        """Return up to when everything was read; the old moment while the lines are behind, or keys are looked for."""
        caught_up_ms = min((line.caught_up_ms for line in self._lines), default=0)
        is_behind = not caught_up_ms or self._repair.is_under_way()
        if is_behind or caught_up_ms - self.marked.since_ms < MARK_MS:
            return self.marked.since_ms
        return caught_up_ms

    def _tell(self, moment_ms: int) -> None:
        """Show how far it is, and have the checkpoint keep up to where everything is acknowledged."""
        if moment_ms < self._report_due_ms:
            return
        self._report_due_ms = moment_ms + POSITIONS_MS
        known = [one.standing for one in self._streams.values() if one.standing is not None]
        self._shared.show_streams(self.node.number, sum(one.behind for one in known), self._desk.ledger.count)
        kept = {one.name.decode(): one.kept for one in self._streams.values() if one.kept != StreamKept()}
        if kept != self._reported:
            self._reported = kept
            self._shared.report(StreamsSettled(kept))

    # Changes, and the end

    def follow(self, feed: Feed, missed: Sequence[Missed], moment_ms: int) -> None:
        """Read these streams, there, from now on."""
        before = self._subscription
        self._subscription = self._subscription_to(feed)
        is_elsewhere = self._subscription.leads_elsewhere(before)
        self._repair.follow(self._subscription, is_elsewhere=is_elsewhere)
        if not is_elsewhere and feed.streams == before.feed.streams:
            return
        for line in self._lines:
            line.close()
        for name in self._streams.keys() - set(feed.streams):
            self._desk.forget(self._streams.pop(name))
        for name in feed.streams:
            if name in self._streams:
                stream, ledger = self._streams[name], self._desk.ledger
                stream.lose_connection(ledger.known(name), ledger.unacknowledged(name))
                if is_elsewhere:
                    # Another server may not have received what this one counted.
                    stream.account = Account()
            else:
                self._streams[name] = followed(name, self._shared.streams, is_new=True)
        self._lines = self._lines_of(feed)

    def start_drain(self, moment_ms: int) -> None:
        """Read nothing more; what was read is acknowledged once it is settled."""
        self._is_draining = True
        self._drain_began_ms = moment_ms

    def _end_drain(self, moment_ms: int) -> None:
        is_over = moment_ms - self._drain_began_ms > DRAIN_MS_MAX
        if not self._desk.ledger.count or is_over or not any(line.is_connected for line in self._lines):
            self.close()

    def close(self) -> None:
        """Read no more."""
        self.is_closed = True
        for line in self._lines:
            line.close()
        self._repair.close()
        self._shared.show_streams(self.node.number, 0, 0)

    def sockets(self) -> list[RespConnection]:
        """Return the connections that something may come from."""
        return [socket for line in self._lines for socket in line.sockets()] + self._repair.sockets()

    def due_ms(self, moment_ms: int) -> int:
        """Return when (monotonic) something is to be done that no readable socket announces."""
        waits = [line.wait_ms(moment_ms) for line in self._lines]
        if self._desk.ledger.has_open:
            waits.append(max(1, self._mark_due_ms - moment_ms))
        # Nothing announces what the rings have settled.
        return min(moment_ms + min(waits, default=BEAT_MS_MAX), moment_ms + BEAT_MS_MAX, self._repair.due_ms(moment_ms))


def consumer_of(part: str) -> str:
    """Return the consumer name of a slice: the same after each start, whichever shard has a stream."""
    return f"engine-{part.replace('/', '-of-')}"


def _open(subscription: Subscription) -> RespConnection:
    """Connect to read streams. Blocks."""
    node = subscription.feed.node
    return RespConnection.open(
        subscription.redis,
        name=f"engine-streams-{subscription.shard + 1}",
        protocol=2,
        database=subscription.database,
        role=role_of(node) if node.address else "",
    )
