"""A subscriber process: one shard's notifications → dirty keys → rings.

The loop never waits for anything but its socket. When a ring is full it goes on draining the socket, because a
subscriber that reads too slowly is disconnected by the server and loses what it missed; the keys wait in the
dirty set, each once.
"""

from __future__ import annotations

import gc
import random
import select
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hiredis

from engine.capture.dirty import DirtyKeys, Intake, interests
from engine.capture.flush import Flusher
from engine.capture.gaps import Gap, declare_gap
from engine.capture.shards import Shard, channel_prefix
from engine.clock import monotonic_ms, now_ms
from engine.config import CaptureSettings, RedisSettings, RingSettings
from engine.connection import RespConnection, pack, refusal
from engine.errors import RedisError, RedisRefused
from engine.lifecycle import ChildLink, Drain, Failed, MappingChanged, RoutesInForce, SetRoutes, Stop
from engine.observe.logs import get_logger
from engine.ring.counters import ChildState, Counter
from engine.ring.ring import RingWriter
from engine.ring.wake import Wake
from engine.routes import RouteTable

log = get_logger(__name__)

BEAT_MS_MAX = 500
READS_A_TURN_MAX = 8
PING_MS = 5_000
SILENCE_MS_MAX = 15_000
"""No answer to a ping for this long means that the connection is dead."""
RETRY_MS_MIN, RETRY_MS_MAX = 50, 5_000
RING_FULL_WAIT_MS = 5
"""Rings have no wake-up in this direction: a writer that found one full looks again after this."""
DRAIN_TOKEN = b"drain"
DRAIN_SILENCE_MS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class SubscriberSpec:
    """All that a subscriber is handed at its fork."""

    shard: Shard
    redis: RedisSettings
    capture: CaptureSettings
    ring: RingSettings
    table: RouteTable
    database: int
    mapping_prefix: str
    writers: Sequence[RingWriter]
    wakes: Sequence[Wake]


def run_subscriber(spec: SubscriberSpec, link: ChildLink) -> int:
    """Run until drained or stopped; return the exit status."""
    subscriber = Subscriber(spec, link)
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    return subscriber.run()


class Subscriber:
    """The loop and what it owns: one connection, one dirty set, the writing ends of its rings."""

    def __init__(self, spec: SubscriberSpec, link: ChildLink) -> None:
        self._spec = spec
        self._link = link
        self._row = link.row
        self._wanted = interests(spec.table)
        self._dirty = DirtyKeys(
            prefix_bytes=len(channel_prefix(spec.database)),
            invokers=len(spec.writers),
            keys_max=spec.capture.dirty_keys_max,
            key_bytes_max=spec.capture.key_bytes_max,
            mapping_prefix=spec.mapping_prefix.encode(),
        )
        self._flusher = Flusher(spec.writers, spec.wakes, spec.ring, link.row)
        self._connection: RespConnection | None = None
        self._confirmed = 0
        self._heard_ms = self._pinged_ms = 0
        self._retry_at_ms = 0
        self._failures = 0
        self._gap_since_ms = 0
        self._is_dropping = False
        self._drain_by_ms = 0
        self._is_drained = False

    def run(self) -> int:
        """Turn until drained or stopped."""
        while True:
            self._link.beat(monotonic_ms())
            if self._obey():
                return 0
            try:
                more = self._turn()
            except RedisRefused as error:
                if self._row.state is ChildState.STARTING:
                    self._link.report(Failed(error.message, error.hint))
                    return error.exit_code
                self._lost(error)
                more = False
            except RedisError as error:
                self._lost(error)
                more = False
            flushed = self._flusher.flush(self._dirty)
            self._row.set(Counter.DIRTY_KEYS, len(self._dirty))
            if self._drain_by_ms and flushed and self._heard_all():
                self._link.set_state(ChildState.DRAINED)
                return 0
            self._wait(more, flushed)

    def _obey(self) -> bool:
        for command in self._link.commands():
            if isinstance(command, Stop):
                return True
            if isinstance(command, Drain) and not self._drain_by_ms:
                self._start_drain()
            elif isinstance(command, SetRoutes):
                table = RouteTable.decode(command.table)
                self._wanted = interests(table)
                self._link.report(RoutesInForce(table.version))
        return False

    def _start_drain(self) -> None:
        """Ask for a pong: everything published before the ping arrives before it."""
        self._link.set_state(ChildState.DRAINING)
        self._drain_by_ms = monotonic_ms() + DRAIN_SILENCE_MS_MAX
        try:
            if self._connection is not None:
                self._connection.send(pack(b"PING", DRAIN_TOKEN))
        except RedisError as error:
            self._lost(error)

    def _heard_all(self) -> bool:
        return self._is_drained or self._connection is None or monotonic_ms() >= self._drain_by_ms

    def _turn(self) -> bool:
        """Read what is there; return True if there may be more at once."""
        if self._connection is None:
            if self._drain_by_ms or monotonic_ms() < self._retry_at_ms:
                return False
            self._connect()
        connection = self._connection
        assert connection is not None
        more = False
        for _ in range(READS_A_TURN_MAX):
            if not connection.receive_available():
                break
            more = True
            self._heard_ms = monotonic_ms()
            self._account(self._dirty.take_in(connection.reply, self._wanted, now_ms()))
        self._keep_alive(connection)
        return more

    def _connect(self) -> None:
        spec = self._spec
        self._confirmed = 0
        self._connection = RespConnection.open(
            spec.redis,
            name=f"engine-subscriber-{spec.shard.index + 1}",
            protocol=2,
            database=spec.database,
        )
        self._connection.send(pack(b"PSUBSCRIBE", *spec.shard.patterns))
        self._heard_ms = self._pinged_ms = monotonic_ms()

    def _account(self, intake: Intake) -> None:
        row = self._row
        row.add(Counter.EVENTS_READ, intake.read)
        row.add(Counter.EVENTS_ROUTED, intake.routed)
        row.add(Counter.EVENTS_COALESCED, intake.coalesced)
        if intake.too_long:
            row.add(Counter.KEYS_TOO_LONG, intake.too_long)
            log.error("key_too_long", limit_bytes=self._spec.capture.key_bytes_max, events=intake.too_long)
        if intake.dropped:
            row.add(Counter.EVENTS_DROPPED, intake.dropped)
            if not self._is_dropping:
                self._declare("more dirty keys than capture.dirty_keys_max", now_ms())
        self._is_dropping = bool(intake.dropped)
        if intake.mapping_changed:
            self._link.report(MappingChanged())
        for reply in intake.others:
            self._handle(reply)

    def _handle(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            assert self._connection is not None
            raise refusal(self._connection.address, "subscribe", str(reply))
        if reply[0] == b"psubscribe":
            self._confirmed += 1
            if self._confirmed == len(self._spec.shard.patterns):
                self._listening()
        elif reply[0] == b"pong" and reply[1] == DRAIN_TOKEN:
            self._is_drained = True

    def _listening(self) -> None:
        self._failures = 0
        if self._gap_since_ms:
            log.info("listening_again", shard=self._spec.shard.index + 1, since_ms=self._gap_since_ms)
            self._gap_since_ms = 0
        if not self._drain_by_ms:
            self._link.set_state(ChildState.READY)

    def _keep_alive(self, connection: RespConnection) -> None:
        moment = monotonic_ms()
        if moment - self._heard_ms > SILENCE_MS_MAX:
            raise RedisError(f"{connection.address} has not answered for {SILENCE_MS_MAX // 1_000} s")
        if moment - self._heard_ms > PING_MS and moment - self._pinged_ms > PING_MS:
            self._pinged_ms = moment
            connection.send(pack(b"PING"))

    def _lost(self, error: RedisError) -> None:
        """Forget the connection, declare the gap once, and try again later, for ever."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._row.add(Counter.RECONNECTS, 1)
        if not self._gap_since_ms and self._row.state is not ChildState.STARTING:
            self._gap_since_ms = now_ms()
            self._declare("the connection was lost", self._gap_since_ms)
        self._failures += 1
        bound = min(RETRY_MS_MAX, RETRY_MS_MIN << min(self._failures, 10))
        wait_ms = random.randint(RETRY_MS_MIN, bound)
        self._retry_at_ms = monotonic_ms() + wait_ms
        log.warning("connection_lost", error=str(error), attempt=self._failures, retry_in_ms=wait_ms)

    def _declare(self, reason: str, started_ms: int) -> None:
        declare_gap(Gap(self._spec.shard.index, reason, started_ms), self._row)

    def _wait(self, more: bool, flushed: bool) -> None:
        """Wait for the socket, a command, or the moment at which something is due."""
        if more:
            return
        wait_ms = BEAT_MS_MAX if not self._drain_by_ms else RING_FULL_WAIT_MS
        poller = select.poll()
        poller.register(self._link.fileno(), select.POLLIN)
        if self._connection is not None:
            poller.register(self._connection.fileno(), select.POLLIN)
        elif not self._drain_by_ms:
            wait_ms = min(wait_ms, max(1, self._retry_at_ms - monotonic_ms()))
        poller.poll(wait_ms if flushed else RING_FULL_WAIT_MS)
