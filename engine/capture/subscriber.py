"""A subscriber process: the notifications of one shard's feeds → dirty keys → rings.

The loop waits for its sockets and its supervisor, and for nothing else. When a ring is full it keeps draining the
sockets, because a subscriber that reads too slowly is disconnected by the server and loses what it missed; the keys
wait in the dirty set, each once. Each read is flushed at once; while changes keep arriving, reads are a moment apart,
so that changes share a turn, a wake-up and an invocation. A turn serves the feeds that have bytes, or are due, and
reads a bounded part of each: a busy feed keeps no other waiting, and a silent one among hundreds costs nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from engine.capture.dirty import DirtyKeys
from engine.capture.feed.gaps import earliest
from engine.capture.flush import Flusher
from engine.capture.sentinel_watch import SentinelWatch
from engine.capture.shared import CaptureScope, Shared
from engine.capture.sources.base import Source
from engine.capture.sources.make import source_of
from engine.capture.traced import marker_of
from engine.capture.waiting import BEAT_MS_MAX, FeedName, Waiter
from engine.clock import Pace, monotonic_ms
from engine.config import CaptureSettings, RedisSettings, RingSettings
from engine.errors import RedisError, RedisRefused
from engine.lifecycle import (
    ChildLink,
    Compared,
    Drain,
    Failed,
    Message,
    RepairTaken,
    RepairWanted,
    RoutesInForce,
    SetFeeds,
    SetRoutes,
    Stop,
    TopologyInForce,
)
from engine.model import NOTHING_HEARD, THE_BEGINNING_MS, Missed, StreamKept, Watermark
from engine.observe.logs import get_logger
from engine.redis.address import parse_url
from engine.ring.counters import ChildState, Counter
from engine.ring.heard import HeardRow
from engine.ring.ring import RingWriter
from engine.ring.wake import Wake
from engine.routing.databases import databases_of
from engine.routing.feeds import Feed
from engine.routing.routes import RouteTable

log = get_logger(__name__)

SENTINELS: FeedName = (-1, b"")
"""Stands for the Sentinels among the feeds, because they are served like one."""
OBEY_MS_MAX = 100
"""Under load, commands are looked for when the poller shows them, and this often for those that arrive as signals."""


@dataclass(frozen=True, slots=True)
class SubscriberSpec:
    """All that a subscriber is handed at its fork; ``shard`` counts from 0, ``database`` is the one of its
    own keys, and of all keys unless ``redis`` names several.

    ``version`` is that of the topology, ``heard_row`` where it notes what it heard. By node number, ``missed`` is what
    went unheard, to be found first, and ``heard`` what a gap that begins at once would miss. By name, ``streams`` is
    what is kept of each. While changes keep coming, they are read every ``gather_ms``. Of a million changes
    ``traced_per_million`` are traced.
    """

    shard: int
    feeds: tuple[Feed, ...]
    redis: RedisSettings
    capture: CaptureSettings
    ring: RingSettings
    table: RouteTable
    database: int
    mapping_prefix: str
    writers: Sequence[RingWriter]
    wakes: Sequence[Wake]
    heard_row: HeardRow
    missed: Mapping[int, tuple[Missed, ...]] = field(default_factory=dict)
    heard: Mapping[int, Missed] = field(default_factory=dict)
    version: int = 0
    streams: Mapping[str, StreamKept] = field(default_factory=dict)
    names_folder: str = ""
    gather_ms: float = 0.0
    traced_per_million: int = 0


def run_subscriber(spec: SubscriberSpec, link: ChildLink) -> int:
    """Run until drained or stopped; return the exit status. The connections are made here, after the fork."""
    subscriber = Subscriber(spec, link)
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    return subscriber.run()


def _shared(spec: SubscriberSpec, link: ChildLink) -> Shared:
    databases = databases_of(spec.redis, spec.database)
    dirty = DirtyKeys(
        prefix_bytes=len(databases.prefix),
        invokers=len(spec.writers),
        keys_max=spec.capture.dirty_keys_max,
        key_bytes_max=spec.capture.key_bytes_max,
        mapping_prefix=databases.at_home(spec.mapping_prefix.encode()) if spec.mapping_prefix else b"",
        uncoalesced_events_max=spec.capture.uncoalesced_events_max,
    )
    scope = CaptureScope(spec.shard, spec.redis, spec.capture, spec.database, spec.mapping_prefix, spec.names_folder)
    shared = Shared(scope, spec.table, dirty, link.row, link.report)
    shared.streams = dict(spec.streams)
    shared.settled_mark = lambda node: min(writer.watermark(node).server_mark for writer in spec.writers)
    return shared


class Subscriber:
    """The loop and what it owns: some feeds, one dirty set, the writing ends of its rings."""

    def __init__(self, spec: SubscriberSpec, link: ChildLink) -> None:
        self._link = link
        self._row = link.row
        self._heard_row = spec.heard_row
        self._version = spec.version
        self._shared = _shared(spec, link)
        self._dirty = self._shared.dirty
        self._flusher = Flusher(spec.writers, spec.wakes, spec.ring, link.row, marker_of(spec.traced_per_million))
        self._waiter = Waiter(link.fileno())
        self._sentinels = SentinelWatch(spec.redis, spec.shard) if parse_url(spec.redis.url).service else None
        self._feeds: dict[FeedName, Source] = {}
        for feed in spec.feeds:
            number = feed.node.number
            missed, heard = spec.missed.get(number, ()), spec.heard.get(number, NOTHING_HEARD)
            self._feeds[_name(feed)] = source_of(feed, self._shared, missed, heard)
        # The gauges of a predecessor's scans do not apply.
        for gauge in (Counter.KEYS_SCANNED, Counter.KEYS_TO_SCAN):
            link.row.set(gauge, 0)
        self._moved: set[FeedName] = set()
        """Feeds whose watermark may differ from the one in the rings."""
        self._awaited = set(self._feeds)
        """Those it was started with that have not listened yet: until then it is not ready."""
        self._pace = Pace(spec.gather_ms)
        self._obey_due_ms = 0
        self._is_ready = self._is_draining = False

    def run(self) -> int:
        """Turn until drained or stopped."""
        served: Iterable[FeedName] = self._all()
        while True:
            moment_ms = monotonic_ms()
            self._link.beat(moment_ms)
            if moment_ms >= self._obey_due_ms:
                self._obey_due_ms = moment_ms + OBEY_MS_MAX
                self._show_feeds()
                if commands := self._link.commands():
                    if self._obey(commands, moment_ms):
                        return 0
                    served = self._all()
            if ready := self._waiter.take_ready():
                self._pace.begin()
            for name in {*ready, *served}:
                if status := self._serve(name, moment_ms, is_ready=name in ready):
                    return status
            if not self._is_ready:
                self._note_ready()
            self._shared.notices.tell(moment_ms)
            changes = len(self._dirty)
            is_flushed = self._flusher.flush(self._dirty)
            self._row.set(Counter.DIRTY_KEYS, 0 if is_flushed else len(self._dirty))
            has_room_again = self._shared.look_for_room()
            if is_flushed:
                if self._moved:
                    self._mark()
                if self._is_draining and all(feed.is_closed for feed in self._feeds.values()):
                    self._link.set_state(ChildState.DRAINED)
                    return 0
            if is_flushed and not (has_room_again or self._waiter.ready or self._is_draining):
                self._pace.keep(changes)
            self._wait(moment_ms, 0 if has_room_again else BEAT_MS_MAX, is_flushed=is_flushed)
            served = self._all() if has_room_again else self._waiter.due(monotonic_ms())

    def _all(self) -> tuple[FeedName, ...]:
        return (*self._feeds, SENTINELS)

    def _serve(self, name: FeedName, moment_ms: int, *, is_ready: bool) -> int:
        """Continue with a feed; return the exit status if only the user can fix what is wrong, else 0."""
        if name == SENTINELS:
            self._ask_sentinels(moment_ms)
            return 0
        feed = self._feeds[name]
        try:
            feed.listen(moment_ms, is_ready=is_ready)
        except RedisError as error:
            if self._is_hopeless(error):
                return error.exit_code
            feed.lose(error, moment_ms)
        feed.advance_repair(moment_ms)
        self._moved.add(name)
        has_more = is_ready and feed.has_more()
        self._waiter.follow(name, feed.sockets(), feed.due_ms(moment_ms), has_more=has_more)
        return 0

    def _show_feeds(self) -> None:
        self._row.set(Counter.FEEDS, len(self._feeds))
        self._row.set(Counter.FEEDS_PROVED, sum(feed.is_proved for feed in self._feeds.values()))

    def _obey(self, commands: Sequence[Message], moment_ms: int) -> bool:
        """Do what the supervisor wants; return True if that is to stop at once."""
        for command in commands:
            match command:
                case Stop():
                    return True
                case Drain():
                    self._start_drain()
                case SetRoutes(table, missed):
                    self._set_routes(RouteTable.decode(table), missed)
                case SetFeeds():
                    self._set_feeds(command, moment_ms)
                case RepairWanted(since_ms):
                    self._repair_since(since_ms)
                    self._link.report(RepairTaken(command.number))
                case Compared(number):
                    for feed in self._feeds.values():
                        feed.compared(number)
        return False

    def _repair_since(self, since_ms: Mapping[int, int]) -> None:
        for feed in self._feeds.values():
            missed = Missed(since_ms.get(feed.node.number, THE_BEGINNING_MS))
            feed.find([missed])
            # If we die before it is done, our successor begins here.
            self._heard_row.lower(feed.node.number, missed.since_ms)

    def _set_routes(self, table: RouteTable, missed: Sequence[Missed]) -> None:
        self._shared.set_routes(table)
        for feed in self._feeds.values():
            feed.set_routes(missed)
        self._link.report(RoutesInForce(table.version))

    def _set_feeds(self, command: SetFeeds, moment_ms: int) -> None:
        """Add, drop and change feeds; what a dropped one has read is delivered with everything dirty."""
        if self._is_draining:
            # During a drain nothing new is taken in, so no watermark may carry the new version.
            return
        self._shared.streams = command.streams
        feeds = {_name(feed): feed for feed in command.feeds}
        for name in self._feeds.keys() - feeds.keys():
            self._feeds.pop(name).close()
            self._waiter.forget(name)
            self._moved.discard(name)
        for name, feed in feeds.items():
            missed = command.missed.get(feed.node.number, ())
            if name in self._feeds:
                self._feeds[name].follow(feed, missed, moment_ms)
            else:
                self._feeds[name] = source_of(feed, self._shared, missed, _heard_before(missed), is_new=True)
        self._version = command.version
        self._link.report(TopologyInForce(command.version))

    def _ask_sentinels(self, moment_ms: int) -> None:
        """Request that the nodes are asked for if a Sentinel names another primary than that of all feeds."""
        if self._sentinels is None or not self._feeds:
            self._waiter.forget(SENTINELS)
            return
        followed = next(iter(self._feeds.values())).node.address
        if reason := self._sentinels.advance(followed, moment_ms):
            self._shared.notices.topology_changed(reason, moment_ms)
        due_ms = moment_ms + self._sentinels.wait_ms(moment_ms)
        self._waiter.follow(SENTINELS, self._sentinels.sockets(), due_ms, has_more=False)

    def _is_hopeless(self, error: RedisError) -> bool:
        """Recognize and report an error at the start that only the user can fix; later on all of them may pass."""
        has_begun = self._is_draining or any(feed.has_listened for feed in self._feeds.values())
        if has_begun or not isinstance(error, RedisRefused):
            return False
        self._link.set_state(ChildState.FAILED)
        self._link.report(Failed(error.message, error.hint))
        return True

    def _note_ready(self) -> None:
        """Be ready once all feeds of the start have listened; later events do not change that."""
        if self._is_draining:
            return
        self._awaited = {name for name in self._awaited if name in self._feeds and not self._feeds[name].has_listened}
        if not self._awaited:
            self._is_ready = True
            self._link.set_state(ChildState.READY)

    def _mark(self) -> None:
        """Nothing is dirty: put into the rings, behind their content, up to when everything was heard or found."""
        feeds = [self._feeds[name] for name in self._moved]
        moved = [(feed, reached) for feed in feeds if (reached := feed.reached()) is not None]
        watermarks = [
            Watermark(reached.since_ms, reached.server_mark, feed.node.number, self._version) for feed, reached in moved
        ]
        if moved and not self._flusher.mark(watermarks):
            return
        self._moved.clear()
        for feed, reached in moved:
            feed.marked = reached
            mark, clock_ms = reached.server_mark, reached.clock_ms
            self._heard_row.set(feed.node.number, reached.since_ms, mark, clock_ms, self._version)

    def _start_drain(self) -> None:
        if self._is_draining:
            return
        self._is_draining = True
        self._link.set_state(ChildState.DRAINING)
        moment_ms = monotonic_ms()
        for feed in self._feeds.values():
            feed.start_drain(moment_ms)

    def _wait(self, moment_ms: int, wait_ms: int, *, is_flushed: bool) -> None:
        """Wait at most this long for a socket, a command, or the moment at which something is due."""
        notice_ms = self._shared.notices.wait_ms(moment_ms)
        if notice_ms is not None:
            wait_ms = min(wait_ms, notice_ms)
        if self._waiter.wait(moment_ms, wait_ms, is_flushed=is_flushed):
            self._obey_due_ms = 0


def _name(feed: Feed) -> FeedName:
    return feed.node.number, feed.last_bytes


def _heard_before(missed: Sequence[Missed]) -> Missed:
    """Return since when a feed misses everything, 0 if some of its keys were never listened to."""
    known = [one for one in missed if not one.slots and one.since_ms != THE_BEGINNING_MS]
    return earliest(known) or NOTHING_HEARD
