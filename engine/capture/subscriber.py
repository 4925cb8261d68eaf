"""A subscriber process: one shard's notifications → dirty keys → rings.

The loop waits for its socket and its supervisor, and for nothing else. When a ring is full it goes on draining the
socket, because a subscriber that reads too slowly is disconnected by the server and loses what it missed; the keys
wait in the dirty set, each once. Each read is flushed at once: light load is not held back to fill frames.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import hiredis

from engine.capture.comparison import Comparison
from engine.capture.dirty import DirtyKeys, Intake, interests
from engine.capture.flush import Flusher
from engine.capture.gaps import Cause, Gaps, earliest
from engine.capture.listener import Listener, Phase, Subscription
from engine.capture.notifications import needed_flags
from engine.capture.repair import Repair
from engine.capture.shards import Shard
from engine.capture.waiting import Waiter
from engine.capture.watch.keepsake import KEY as KEEPSAKE
from engine.capture.watch.sight import Change as Unseen
from engine.clock import monotonic_ms, now_ms
from engine.config import CaptureSettings, RedisSettings, RingSettings
from engine.errors import RedisError, RedisRefused, RedisUnreachable
from engine.lifecycle import (
    ChildLink,
    Compared,
    CompareWanted,
    Drain,
    Failed,
    MappingChanged,
    RepairWanted,
    RoutesInForce,
    SetRoutes,
    Stop,
)
from engine.model import NOTHING_HEARD, THE_BEGINNING_MS, Missed, Watermark
from engine.observe.logs import get_logger
from engine.redis.errors import not_redis
from engine.ring.counters import ChildState, Counter, StatusRow
from engine.ring.heard import HeardRow
from engine.ring.ring import RingWriter
from engine.ring.wake import Wake
from engine.routing.byte_classes import channel_prefix
from engine.routing.events import REPAIR_GONE
from engine.routing.routes import RouteTable

log = get_logger(__name__)

BEAT_MS_MAX = 500
OBEY_MS_MAX = 100
"""Under load, commands are looked for when the poller shows them, and this often for those that come as signals."""
DRAIN_SILENCE_MS_MAX = 2_000
"""A drain waits this long for a server that says nothing any more."""
MAPPING_DEBOUNCE_MS = 100
TOO_LONG_LOG_MS = 10_000


@dataclass(frozen=True, slots=True)
class SubscriberSpec:
    """All that a subscriber is handed at its fork; ``database`` is the one whose keys it captures.

    ``heard_row`` is where it notes what it heard. ``missed`` is what nobody has heard in its place, to be found first.
    ``heard`` is what a gap would miss that begins at once.
    """

    shard: Shard
    redis: RedisSettings
    capture: CaptureSettings
    ring: RingSettings
    table: RouteTable
    database: int
    mapping_prefix: str
    writers: Sequence[RingWriter]
    wakes: Sequence[Wake]
    heard_row: HeardRow
    missed: tuple[Missed, ...] = ()
    heard: Missed = NOTHING_HEARD


def run_subscriber(spec: SubscriberSpec, link: ChildLink) -> int:
    """Run until drained or stopped; return the exit status. The connection is made here, after the fork."""
    subscriber = Subscriber(spec, link)
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    return subscriber.run()


def _dirty_keys(spec: SubscriberSpec) -> DirtyKeys:
    dirty = DirtyKeys(
        prefix_bytes=len(channel_prefix(spec.database)),
        invokers=len(spec.writers),
        keys_max=spec.capture.dirty_keys_max,
        key_bytes_max=spec.capture.key_bytes_max,
        mapping_prefix=spec.mapping_prefix.encode(),
        uncoalesced_events_max=spec.capture.uncoalesced_events_max,
    )
    dirty.uncoalesced = spec.table.uncoalesced()
    return dirty


class _Accounts:
    """What was read, counted; keys that are too long are said, now and then."""

    def __init__(self, spec: SubscriberSpec, row: StatusRow) -> None:
        self._spec = spec
        self._row = row
        self._too_long_said_ms = -TOO_LONG_LOG_MS

    def take_in(self, intake: Intake, moment_ms: int) -> None:
        """Count what one read brought."""
        row = self._row
        row.add(Counter.EVENTS_READ, intake.read)
        row.add(Counter.EVENTS_ROUTED, intake.routed)
        row.add(Counter.EVENTS_COALESCED, intake.coalesced)
        row.add(Counter.EVENTS_DROPPED, intake.dropped)
        if intake.too_long:
            row.add(Counter.KEYS_TOO_LONG, intake.too_long)
            if moment_ms - self._too_long_said_ms >= TOO_LONG_LOG_MS:
                self._too_long_said_ms = moment_ms
                log.error("key_too_long", limit_bytes=self._spec.capture.key_bytes_max, events=intake.too_long)


class Subscriber:
    """The loop and what it owns: a subscription, a dirty set, the writing ends of its rings."""

    def __init__(self, spec: SubscriberSpec, link: ChildLink) -> None:
        self._spec = spec
        self._link = link
        self._row = link.row
        self._wanted = interests(spec.table)
        self._dirty = _dirty_keys(spec)
        self._flusher = Flusher(spec.writers, spec.wakes, spec.ring, link.row)
        self._listener = Listener(
            Subscription(spec.redis, spec.database, spec.shard, spec.capture.read_bytes_max),
            needed_flags(spec.table, spec.mapping_prefix),
        )
        prefix = spec.mapping_prefix.encode()
        self._repair = Repair(spec.redis, spec.database, spec.shard, spec.table, prefix, spec.capture, link.row)
        self._for_repairs, self._for_deletes = spec.table.for_repairs().mask, spec.table.for_deletes().mask
        self._comparison = Comparison(spec.table)
        self._waiter = Waiter(link.fileno())
        self._accounts = _Accounts(spec, link.row)
        self._marked = spec.heard
        """The watermark that is in all rings, and the server's mark then."""
        self._gaps = Gaps(spec.shard.index, self._marked, self._row)
        self._repair_from_look = 1
        """The look that a repair needs: one that follows its gap's end."""
        self._mapping_due_ms = 0
        self._obey_due_ms = self._drain_began_ms = 0
        self._is_draining = False
        for missed in spec.missed:
            if missed.since_ms != THE_BEGINNING_MS:
                self._gaps.declare("nobody listened", missed.since_ms)
            self._repair.request(missed)

    def run(self) -> int:
        """Turn until drained or stopped."""
        while True:
            moment_ms = monotonic_ms()
            self._link.beat(moment_ms)
            if moment_ms >= self._obey_due_ms and self._obey(moment_ms):
                return 0
            try:
                self._listen(moment_ms)
                self._end_drain(moment_ms)
            except RedisError as error:
                if self._is_hopeless(error):
                    return error.exit_code
                self._lose(error, moment_ms)
            self._advance_repair(moment_ms)
            is_flushed = self._flusher.flush(self._dirty)
            self._note_dirty()
            if is_flushed:
                self._mark()
            if is_flushed and self._listener.phase is Phase.CLOSED:
                self._link.set_state(ChildState.DRAINED)
                return 0
            if not self._listener.has_more():
                self._wait(is_flushed, moment_ms)

    def _obey(self, moment_ms: int) -> bool:
        """Do what the supervisor wants; return True where that is to stop at once."""
        self._obey_due_ms = moment_ms + OBEY_MS_MAX
        for command in self._link.commands():
            if isinstance(command, Stop):
                return True
            if isinstance(command, Drain) and not self._is_draining:
                self._start_drain()
            elif isinstance(command, SetRoutes):
                self._set_routes(RouteTable.decode(command.table), command.missed)
            elif isinstance(command, RepairWanted):
                self._repair_since(command.since_ms.get(0, THE_BEGINNING_MS))
            elif isinstance(command, Compared):
                self._comparison.done(command.number)
        if self._mapping_due_ms and moment_ms >= self._mapping_due_ms:
            self._mapping_due_ms = 0
            self._link.report(MappingChanged())
        return False

    def _repair_since(self, since_ms: int) -> None:
        self._repair.request(Missed(since_ms))
        # If we die before it is done, our successor begins here.
        self._spec.heard_row.lower(0, since_ms)

    def _set_routes(self, table: RouteTable, missed: Sequence[Missed]) -> None:
        self._wanted = interests(table)
        self._dirty.uncoalesced = table.uncoalesced()
        self._for_repairs, self._for_deletes = table.for_repairs().mask, table.for_deletes().mask
        self._repair.set_routes(table)
        self._comparison.set_routes(table)
        for one in missed:
            self._repair.request(one)
        self._listener.flags = needed_flags(table, self._spec.mapping_prefix)
        self._link.report(RoutesInForce(table.version))

    def _listen(self, moment_ms: int) -> None:
        """Take in what one read brings."""
        listener = self._listener
        if listener.advance(moment_ms):
            self._take_in(moment_ms)
        if listener.watermark_ms:
            self._gaps.hear(listener.outlook.missed_after(listener.watermark_ms))
        for change in listener.take_changes():
            self._missed_by(change)

    def _take_in(self, moment_ms: int) -> None:
        listener = self._listener
        connection = listener.connection
        assert connection is not None
        try:
            intake = self._dirty.take_in(connection.reply, self._wanted, now_ms())
        except hiredis.ProtocolError as error:
            raise not_redis(connection.address, error) from error
        self._accounts.take_in(intake, moment_ms)
        if intake.dropped:
            self._overflow()
        if intake.mappings and not self._mapping_due_ms:
            self._mapping_due_ms = moment_ms + MAPPING_DEBOUNCE_MS
        self._dirty.forget((KEEPSAKE, *(listener.canary.keys if listener.canary is not None else ())))
        for key, event in intake.marks:
            self._mark_dirty(key, event.decode())
        for reply in intake.others:
            if listener.handle(reply):
                self._is_listening()

    def _mark_dirty(self, key: bytes, event: str) -> None:
        """Take in a key that an audit, a redrive or a comparison wants to be delivered again."""
        mask_of = self._for_deletes if event == REPAIR_GONE else self._for_repairs
        _, left = self._dirty.mark([key], mask_of, event, now_ms())
        if left:
            self._row.add(Counter.EVENTS_DROPPED, 1)
            self._overflow()

    def _missed_by(self, change: Unseen) -> None:
        """Declare a gap that the connection did not tell: flags that were switched, a keyspace that was flushed."""
        if not self._gaps.is_open(Cause.DEAF):
            self._gaps.declare("; ".join(change.reasons), self._gaps.begin(Cause.DEAF).since_ms)
        if change.is_deaf:
            log.error("events_off", shard=self._spec.shard.index + 1, hint="see redis.set_notifications")
        if not (change.is_deaf or change.is_unsettled):
            self._end_gap(Cause.DEAF, self._listener.looks_taken)

    def _advance_repair(self, moment_ms: int) -> None:
        """Scan on while somebody listens: only then is what the scan has passed heard when it changes again."""
        if not self._repair.is_under_way() or self._listener.phase is not Phase.LISTENING or self._is_draining:
            return
        if self._gaps.is_open(Cause.DEAF) or self._listener.looks_taken < self._repair_from_look:
            return
        keys_max = max(1, self._spec.capture.dirty_keys_max // 2)
        sight = self._listener.outlook.sight
        found = self._repair.advance(self._dirty, keys_max, sight, moment_ms, now_ms())
        if found is not None:
            self._comparison.want(found)

    def _overflow(self) -> None:
        if not self._gaps.is_open(Cause.FULL):
            reason = "more keys are dirty than the set may hold: capture.dirty_keys_max"
            self._gaps.declare(reason, self._gaps.begin(Cause.FULL).since_ms)

    def _end_gap(self, cause: Cause, from_look: int) -> None:
        """Have a repair find what was missed, beginning after this look."""
        missed = self._gaps.end(cause)
        if missed is not None:
            self._repair.request(missed)
            self._repair_from_look = from_look

    def _mark(self) -> None:
        """Nothing is dirty here: put behind all that the rings hold up to when everything was heard, or found."""
        if self._gaps.oldest() is None and (number := self._comparison.ask()):
            self._link.report(CompareWanted(number))
        debt = earliest((self._gaps.oldest(), self._repair.oldest(), self._comparison.oldest()))
        reached = earliest((self._gaps.heard, debt))
        # A server's clock that goes back takes the watermark with it, a debt never does.
        if reached is None or reached.since_ms == self._marked.since_ms:
            return
        if debt is not None and reached.since_ms < self._marked.since_ms:
            return
        if self._flusher.mark([Watermark(reached.since_ms, reached.server_mark)]):
            self._marked = reached
            self._spec.heard_row.set(0, reached.since_ms, reached.server_mark, reached.clock_ms)

    def _note_dirty(self) -> None:
        dirty = len(self._dirty)
        self._row.set(Counter.DIRTY_KEYS, dirty)
        if dirty <= self._spec.capture.dirty_keys_max // 2:
            self._end_gap(Cause.FULL, self._listener.looks_asked + 1)

    def _is_listening(self) -> None:
        """The subscription is complete: the gap, if there was one, ends here."""
        if self._gaps.is_open(Cause.DEAF):
            log.info("listening_again", shard=self._spec.shard.index + 1)
            self._end_gap(Cause.DEAF, self._listener.looks_asked + 1)
        if self._listener.completions > 1:
            self._row.add(Counter.RECONNECTS, 1)
            if self._spec.mapping_prefix:
                self._link.report(MappingChanged())
        if not self._is_draining:
            self._link.set_state(ChildState.READY)

    def _is_hopeless(self, error: RedisError) -> bool:
        """Tell, and report, an error at the start that only the user can mend; later on all of them may pass."""
        if self._listener.completions or self._is_draining or not isinstance(error, RedisRefused):
            return False
        self._link.set_state(ChildState.FAILED)
        self._link.report(Failed(error.message, error.hint))
        return True

    def _lose(self, error: RedisError, moment_ms: int) -> None:
        """Declare the gap once, and try again later, for ever; a drain takes what there is."""
        listener = self._listener
        if listener.phase is Phase.LISTENING:
            self._gaps.declare("the connection was lost", self._gaps.begin(Cause.DEAF).since_ms)
        wait_ms = listener.lost(moment_ms)
        log.warning("connection_lost", error=str(error), attempt=listener.failures, retry_in_ms=wait_ms)
        if self._is_draining:
            listener.close()

    def _start_drain(self) -> None:
        """Ask for a pong: everything published before the ping was processed arrives before it."""
        self._is_draining = True
        self._link.set_state(ChildState.DRAINING)
        self._drain_began_ms = moment_ms = monotonic_ms()
        try:
            if not self._listener.ask_for_the_end(moment_ms):
                self._listener.close()
        except RedisError as error:
            self._lose(error, moment_ms)

    def _end_drain(self, moment_ms: int) -> None:
        """Stop listening once all that was asked for is here, or the server says nothing any more."""
        listener = self._listener
        if not self._is_draining or listener.phase is Phase.CLOSED:
            return
        if listener.is_drained:
            listener.close()
        elif moment_ms - self._drain_began_ms > DRAIN_SILENCE_MS_MAX:
            raise RedisUnreachable("the server does not answer to the drain")

    def _wait(self, is_flushed: bool, moment_ms: int) -> None:
        """Wait for the socket, a command, or the moment at which something is due."""
        wait_ms = min(BEAT_MS_MAX, self._listener.wait_ms(moment_ms))
        if self._mapping_due_ms:
            wait_ms = min(wait_ms, max(1, self._mapping_due_ms - moment_ms))
        repair_ms = self._repair.wait_ms(moment_ms)
        if repair_ms is not None:
            wait_ms = min(wait_ms, repair_ms)
        if self._waiter.wait(self._listener.connection, wait_ms, is_flushed=is_flushed):
            self._obey_due_ms = 0
