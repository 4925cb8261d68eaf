"""One connection that reads streams: in a cluster those of one slot, else all of a feed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from engine.capture.feed.exchange import Exchange
from engine.capture.sources.stream.desk import Desk
from engine.capture.sources.stream.followed import Followed
from engine.capture.sources.stream.rounds import BLOCK_MS, Asked, Rounds
from engine.errors import RedisUnreachable
from engine.redis.connecting import Connecting
from engine.redis.connection import RespConnection
from engine.redis.errors import not_redis

CONNECT_LOOK_MS = 5
IDLE_MS = 20
"""How soon a line that may not read, and has nothing to acknowledge, checks again."""
GATHER_MS = 2
"""How soon after a question the next one is asked: entries that arrive meanwhile cost the server one read together."""
RETRY_MS_MIN, RETRY_MS_MAX = 50, 5_000


class Line:
    """One connection, made again forever. The owner calls `advance` each turn, and `lose` after any `RedisError`."""

    def __init__(
        self,
        streams: Sequence[Followed],
        desk: Desk,
        connect: Callable[[], RespConnection],
        limit_ms: int,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """``connect`` blocks, and is run in a thread; no answer takes longer than ``limit_ms``."""
        self.streams = tuple(streams)
        self.failures = 0
        self.openings = 0
        """How often all groups were there after it had connected."""
        self.caught_up_ms = self.ahead_ms = 0
        """As in `Rounds`, over all connections."""
        self._desk, self._connect, self._limit_ms, self._chance = desk, connect, limit_ms + BLOCK_MS, chance
        self._attempt: Connecting[RespConnection] | None = None
        self._exchange: Exchange | None = None
        self._rounds: Rounds | None = None
        self._asked: Asked = []
        self._due_ms = self._next_ms = 0
        self._is_counted = False

    def advance(self, moment_ms: int, room: int) -> None:
        """Do what is due; ``room`` is how many entries of each stream may be read. Raises `RedisError`."""
        if self._exchange is None:
            self._advance_connecting(moment_ms)
        exchange, rounds = self._exchange, self._rounds
        if exchange is None or rounds is None:
            return
        if exchange.is_asking:
            replies = exchange.poll(moment_ms)
            if replies is None:
                return
            try:
                rounds.hear(self._asked, replies, moment_ms)
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                raise not_redis(exchange.connection.address, error) from error
            self._note(rounds)
        if 0 < exchange.connection.renewal_ms <= moment_ms:
            raise RedisUnreachable(f"the connection to {exchange.connection.address} is renewed")
        if moment_ms < self._next_ms:
            return
        self._asked = rounds.begin(moment_ms, room)
        if self._asked:
            self._next_ms = moment_ms + GATHER_MS
            exchange.ask(b"".join(packed for packed, _ in self._asked), len(self._asked), moment_ms)

    def _advance_connecting(self, moment_ms: int) -> None:
        if self._attempt is None and moment_ms >= self._due_ms:
            self._attempt = Connecting(self._connect)
        connection = self._attempt.poll() if self._attempt is not None else None
        if connection is None:
            return
        self._attempt = None
        self._exchange = Exchange(connection, self._limit_ms)
        self._rounds = Rounds(self.streams, self._desk, connection.address)
        self._is_counted = False
        for stream in self.streams:
            stream.has_group, stream.make_at = False, b""

    def _note(self, rounds: Rounds) -> None:
        if rounds.is_open and not self._is_counted:
            self._is_counted, self.failures = True, 0
            self.openings += 1
        self.caught_up_ms = rounds.caught_up_ms or self.caught_up_ms
        self.ahead_ms = rounds.ahead_ms or self.ahead_ms

    def lose(self, moment_ms: int) -> int:
        """Give the connection up, plan the next attempt, return the wait."""
        self.close()
        ledger = self._desk.ledger
        for stream in self.streams:
            stream.lose_connection(ledger.known(stream.name), ledger.unacknowledged(stream.name))
        self.failures += 1
        bound_ms = min(RETRY_MS_MAX, RETRY_MS_MIN << min(self.failures, 10))
        wait_ms = int(RETRY_MS_MIN + (bound_ms - RETRY_MS_MIN) * self._chance())
        self._due_ms = moment_ms + wait_ms
        return wait_ms

    @property
    def is_connected(self) -> bool:
        """Tell whether there is a connection."""
        return self._exchange is not None

    def has_more(self) -> bool:
        """Tell whether more bytes may be here than a poll of the socket shows."""
        return self._exchange is not None and self._exchange.is_asking and self._exchange.connection.is_full

    def sockets(self) -> list[RespConnection]:
        """Return the connection where an answer is waited for."""
        return [self._exchange.connection] if self._exchange is not None and self._exchange.is_asking else []

    def wait_ms(self, moment_ms: int) -> int:
        """Return how long until something is due that no readable socket announces."""
        if self._exchange is None:
            return CONNECT_LOOK_MS if self._attempt is not None else max(1, self._due_ms - moment_ms)
        if self._exchange.is_sending:
            return CONNECT_LOOK_MS
        if self._exchange.is_asking:
            return self._limit_ms
        return max(1, self._next_ms - moment_ms) if moment_ms < self._next_ms else IDLE_MS

    def close(self) -> None:
        """Close the connection."""
        if self._exchange is not None:
            self._exchange.connection.close()
        self._exchange = self._rounds = self._attempt = None
