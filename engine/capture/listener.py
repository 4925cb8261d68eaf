"""A shard's subscription: made, kept alive, and made again for ever.

**The watermark.** A ping is answered in order with the messages around it. So once its pong is here, everything
that was published before the ping was sent has been read: what a broken connection may have lost is younger than
that. Data that came is no such proof, because the server may have queued it long before.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import hiredis

from engine.capture.connecting import Connecting
from engine.capture.notifications import see_to_flags
from engine.capture.shards import Shard
from engine.clock import now_ms
from engine.config import RedisSettings
from engine.connection import RespConnection, pack
from engine.connection_errors import refusal
from engine.errors import RedisUnreachable

PING_MS = 2_000
SILENCE_MS_MAX = 15_000
"""No byte for this long, with a ping out, means that the connection is dead."""
RETRY_MS_MIN, RETRY_MS_MAX = 50, 5_000
DRAIN_TOKEN = b"drain"


class Phase(Enum):
    """How far the subscription has come."""

    WAITING = auto()
    CONNECTING = auto()
    SUBSCRIBING = auto()
    LISTENING = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class Subscription:
    """What to listen to, and how."""

    redis: RedisSettings
    database: int
    shard: Shard
    read_bytes: int


class Listener:
    """One subscription. The owner calls `advance` each turn, and `lost` after any `RedisError` that comes of it.

    ``flags`` are the notification flags that the subscription lives on; the owner changes them with the routes.
    """

    def __init__(self, subscription: Subscription, flags: str, chance: Callable[[], float] = random.random) -> None:
        self.flags = flags
        self.phase = Phase.WAITING
        self.completions = 0
        """How often all of its patterns were subscribed to."""
        self.heard_until_ms = 0
        """The watermark (Unix ms): everything published before has been read."""
        self.failures = 0
        self.is_drained = False
        self.connection: RespConnection | None = None
        self._subscription = subscription
        self._chance = chance
        self._attempt: Connecting | None = None
        self._confirmed = 0
        self._due_ms = 0
        self._subscribed_at_ms = 0
        self._heard_ms = self._pinged_ms = 0
        self._is_ping_out = False

    def advance(self, moment_ms: int) -> bool:
        """Do what is due; return True when bytes came, so that the parser may have replies. Raises `RedisError`."""
        if self.phase is Phase.WAITING and moment_ms >= self._due_ms:
            self.phase = Phase.CONNECTING
            self._attempt = Connecting(self._connect)
        if self.phase is Phase.CONNECTING:
            self._finish_connecting(moment_ms)
        if self.connection is None:
            return False
        has_bytes = self.connection.receive_available()
        if has_bytes:
            self._heard_ms = moment_ms
        self._keep_alive(moment_ms)
        return has_bytes

    def _connect(self) -> RespConnection:
        """Connect, in a thread. On a return, see to the flags again: a server that was restarted may have none."""
        wanted = self._subscription
        connection = RespConnection.open(
            wanted.redis,
            name=f"engine-subscriber-{wanted.shard.index + 1}",
            protocol=2,  # Parsing a message costs 0.17 µs in RESP2, 0.22 in RESP3.
            database=wanted.database,
            read_bytes=wanted.read_bytes,
        )
        try:
            if self.completions:
                see_to_flags(connection, self.flags, may_set=wanted.redis.set_notifications)
        except BaseException:
            connection.close()
            raise
        return connection

    def _finish_connecting(self, moment_ms: int) -> None:
        assert self._attempt is not None
        connection = self._attempt.poll()
        if connection is None:
            return
        self._attempt = None
        self.connection = connection
        self.phase = Phase.SUBSCRIBING
        self._confirmed = 0
        self._is_ping_out = False
        self._heard_ms = self._pinged_ms = moment_ms
        self._subscribed_at_ms = now_ms()
        connection.send(pack(b"PSUBSCRIBE", *self._subscription.shard.patterns))

    def handle(self, reply: Any) -> bool:
        """Take in a reply that is no event; return True when it makes the subscription complete."""
        assert self.connection is not None
        if isinstance(reply, hiredis.ReplyError):
            raise refusal(self.connection.address, "subscribe", str(reply))
        if reply[0] == b"psubscribe":
            self._confirmed += 1
            if self._confirmed == len(self._subscription.shard.patterns):
                self.phase = Phase.LISTENING
                self.heard_until_ms = self._subscribed_at_ms
                self.completions += 1
                self.failures = 0
                return True
        elif reply[0] == b"pong" and reply[1] == DRAIN_TOKEN:
            self.is_drained = True
        elif reply[0] == b"pong":
            self.heard_until_ms = int(reply[1])
            self._is_ping_out = False
        return False

    def _keep_alive(self, moment_ms: int) -> None:
        connection = self.connection
        assert connection is not None
        is_asking = self._is_ping_out or self.phase is Phase.SUBSCRIBING
        silence_ms = self.silence_ms(moment_ms)
        if is_asking and silence_ms > SILENCE_MS_MAX:
            raise RedisUnreachable(f"{connection.address} has said nothing for {silence_ms // 1_000} s")
        if self.phase is Phase.LISTENING and not self._is_ping_out and moment_ms - self._pinged_ms >= PING_MS:
            self._pinged_ms = moment_ms
            self._is_ping_out = True
            connection.send(pack(b"PING", now_ms()))

    def ask_for_the_end(self, moment_ms: int) -> bool:
        """Send the ping whose pong sets ``is_drained``; False where nobody listens, so nothing is to come."""
        if self.phase is not Phase.LISTENING or self.connection is None:
            return False
        self._pinged_ms = moment_ms
        self._is_ping_out = True
        self.connection.send(pack(b"PING", DRAIN_TOKEN))
        return True

    def has_more(self) -> bool:
        """Tell whether more bytes may be here than a poll of the socket shows."""
        return self.connection is not None and self.connection.is_full

    def silence_ms(self, moment_ms: int) -> int:
        """Return for how long nothing has come since we last asked."""
        return moment_ms - max(self._heard_ms, self._pinged_ms)

    def lost(self, moment_ms: int) -> int:
        """Give the connection up and plan the next attempt; return the milliseconds until it."""
        self.close()
        self.phase = Phase.WAITING
        self.failures += 1
        bound_ms = min(RETRY_MS_MAX, RETRY_MS_MIN << min(self.failures, 10))
        wait_ms = int(RETRY_MS_MIN + (bound_ms - RETRY_MS_MIN) * self._chance())
        self._due_ms = moment_ms + wait_ms
        return wait_ms

    def wait_ms(self, moment_ms: int) -> int:
        """Return how long until something is due that no readable socket announces."""
        if self.phase is Phase.WAITING:
            return max(1, self._due_ms - moment_ms)
        return 5 if self.phase is Phase.CONNECTING else PING_MS

    def close(self) -> None:
        """Close the connection, for good unless `lost` says otherwise."""
        if self.connection is not None:
            self.connection.close()
        self.connection = self._attempt = None
        self.phase = Phase.CLOSED
