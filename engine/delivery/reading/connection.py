"""A connection whose pipelines are sent and answered a step at a time: several nodes are asked at once."""

from __future__ import annotations

import select
import sys
from typing import Any

from engine.redis.connection import NOTHING, UNPARSABLE, RespConnection
from engine.redis.errors import not_redis

_SEND_CHUNK_BYTES = 1 << 18


class TooLarge(Exception):
    """The replies of a pipeline grew past their bound; the connection is no longer usable."""


class ReadConnection(RespConnection):
    """A connection that never waits by itself, counts what it receives, and stops at a bound."""

    received_bytes = 0
    _received_bytes_max = sys.maxsize
    _unsent = memoryview(b"")
    _count = 0
    _replies: list[Any]

    def begin(self, commands: bytes, count: int, reply_bytes_max: int) -> None:
        """Send these packed commands, which ``count`` replies answer, as far as that goes at once."""
        self._count, self._replies = count, []
        self.received_bytes, self._received_bytes_max = 0, reply_bytes_max
        sent = self.send_available(commands) if len(commands) <= _SEND_CHUNK_BYTES else 0
        if sent < len(commands):
            self._unsent = memoryview(commands)[sent:]
            self._send_what_fits()

    def go_on(self) -> list[Any] | None:
        """Send and receive what can be now; return the replies once all are here, None before.

        Sending and receiving take turns: a server that waits for us to read its replies stops reading our commands.
        Raises `RedisUnreachable`, or `TooLarge` where the replies are longer than their bound.
        """
        replies, count, reply_of = self._replies, self._count, self.reply
        append = replies.append
        while True:
            if self._unsent:
                self._send_what_fits()
            more = self.receive_available()
            try:
                while len(replies) < count:
                    reply = reply_of()
                    if reply is NOTHING:
                        break
                    append(reply)
                else:
                    return replies
            except UNPARSABLE as error:
                raise not_redis(self.address, error) from error
            # What TLS has taken from the socket wakes no poll.
            if not more or not (self.is_full or self._is_tls or self._unsent):
                return None

    def wants(self) -> int:
        """Return what to poll the socket for before `go_on` has something to do, 0 for nothing."""
        return select.POLLIN | select.POLLOUT if self._unsent else select.POLLIN

    def _send_what_fits(self) -> None:
        rest = self._unsent
        while rest and (size := self.send_available(rest[:_SEND_CHUNK_BYTES])):
            rest = rest[size:]
        self._unsent = rest

    def _take(self, size: int) -> None:
        self.received_bytes += size
        if self.received_bytes > self._received_bytes_max:
            raise TooLarge
        super()._take(size)
