"""Questions to a server and their answers, beside a loop that waits for neither."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.errors import RedisUnreachable
from engine.redis.connecting import Connecting
from engine.redis.connection import NOTHING, UNPARSABLE, RespConnection
from engine.redis.errors import not_redis


class Exchange:
    """One connection's, one pipeline at a time; raises `RedisError` when it breaks, or is silent for ``limit_ms``."""

    def __init__(self, connection: RespConnection, limit_ms: int) -> None:
        self.connection = connection
        self._limit_ms = limit_ms
        self._unsent = memoryview(b"")
        self._replies: list[Any] = []
        self._expected = 0
        self._heard_ms = 0

    @property
    def is_asking(self) -> bool:
        """Tell whether answers are still to come."""
        return self._expected > 0

    @property
    def is_sending(self) -> bool:
        """Tell whether the server has not taken all commands yet."""
        return len(self._unsent) > 0

    def ask(self, commands: bytes, count: int, moment_ms: int) -> None:
        """Send these packed commands, as far as that goes at once; `poll` has their ``count`` replies."""
        assert not self._expected
        self._expected, self._replies = count, []
        self._unsent = memoryview(commands)
        self._heard_ms = moment_ms
        self._send(moment_ms)

    def _send(self, moment_ms: int) -> None:
        while self._unsent and (sent := self.connection.send_available(self._unsent)):
            self._unsent = self._unsent[sent:]
            self._heard_ms = moment_ms

    def poll(self, moment_ms: int) -> list[Any] | None:
        """Return the replies once they are all here, error replies among them; None until then."""
        connection, replies = self.connection, self._replies
        if self._unsent:
            self._send(moment_ms)
        if connection.receive_available():
            self._heard_ms = moment_ms
        elif moment_ms - self._heard_ms > self._limit_ms:
            raise RedisUnreachable(f"{connection.address} did not answer within {self._limit_ms / 1_000:g} s")
        try:
            while len(replies) < self._expected and (reply := connection.reply()) is not NOTHING:
                replies.append(reply)
        except UNPARSABLE as error:
            raise not_redis(connection.address, error) from error
        if len(replies) < self._expected:
            return None
        self._expected = 0
        return replies


class Reach:
    """An exchange over a connection that is made beside the loop, and made again after `close`."""

    def __init__(self) -> None:
        self._attempt: Connecting[RespConnection] | None = None
        self._exchange: Exchange | None = None

    @property
    def is_connecting(self) -> bool:
        """Tell whether a connection is being made."""
        return self._attempt is not None

    @property
    def is_begun(self) -> bool:
        """Tell whether there is a connection, or one is being made."""
        return self._attempt is not None or self._exchange is not None

    @property
    def exchange(self) -> Exchange:
        """Return the exchange; there is a connection."""
        assert self._exchange is not None
        return self._exchange

    def is_open(self, connect: Callable[[], RespConnection], limit_ms: int) -> bool:
        """Tell whether there is a connection; without one ``connect``, which blocks, is run in a thread.

        Raises its error; whoever takes that calls `close`.
        """
        if self._exchange is None:
            self._attempt = self._attempt or Connecting(connect)
            connection = self._attempt.poll()
            if connection is None:
                return False
            self._attempt = None
            self._exchange = Exchange(connection, limit_ms)
        return True

    def is_unannounced(self) -> bool:
        """Tell whether something is under way that no readable socket announces."""
        return self._attempt is not None or (self._exchange is not None and self._exchange.is_sending)

    def sockets(self) -> list[RespConnection]:
        """Return the connection, where answers are awaited."""
        return [self._exchange.connection] if self._exchange is not None and self._exchange.is_asking else []

    def close(self) -> None:
        """Close the connection, or give up the attempt to make one."""
        if self._exchange is not None:
            self._exchange.connection.close()
        self._attempt = self._exchange = None
