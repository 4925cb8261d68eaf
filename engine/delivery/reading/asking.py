"""Questions to one node, a pipeline at a time, and what an error among the replies says about all of them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hiredis

from engine.delivery.reading.connection import TooLarge
from engine.errors import RedisError, RedisUnreachable
from engine.redis.cluster.redirects import redirect_of
from engine.redis.connection import PRIMARY, is_replica
from engine.redis.errors import refusal, wrong_role

if TYPE_CHECKING:
    from engine.delivery.reading.node_reader import NodeReader


@dataclass(slots=True)
class First:
    """The outcome of a job's first pipeline, which the caller has sent: replies, an error, or nothing yet.

    ``is_late`` if it has been waited for long enough.
    """

    replies: list[Any] | None = None
    error: RedisError | TooLarge | None = None
    is_late: bool = False


class Asking:
    """The pipelines of one job; generators wait in between for the node, and raise what `ReadConnection` does."""

    def __init__(self, reader: NodeReader, first: First | None) -> None:
        self._reader = reader
        self._first = first
        """The outcome of its next pipeline, if it was already sent."""

    def replies(self, commands: bytes, count: int) -> Generator[None, None, list[Any]]:
        """Ask, and return the replies."""
        connection, first = self._reader.connection, self._first
        assert connection is not None
        if first is None:
            connection.begin(commands, count, self._reader.reply_bytes_max)
            if connection.wants():
                yield
        else:
            self._first = None
            if first.error is not None:
                raise first.error
            if first.replies is not None:
                return first.replies
        while (replies := connection.go_on()) is None:
            yield
        return replies

    def replies_in_role(self, commands: bytes, count: int) -> Generator[None, None, list[Any]]:
        """Ask, and return the replies; raise if it has to be a primary, and reports at the end that it is not."""
        reader = self._reader
        last = reader.last_question
        replies = yield from self.replies(commands + last, count + bool(last))
        told = replies.pop() if last else None
        if isinstance(told, hiredis.ReplyError):
            raise refusal(reader.address, "report its role", str(told))
        if is_replica(told):
            raise wrong_role(reader.address, PRIMARY)
        return replies


def has_redirects(reader: NodeReader, replies: Sequence[Any]) -> bool:
    """Tell whether some of these are redirects; raise what an error says about the server or the connection.

    One that concerns its key alone raises nothing.
    """
    found = False
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            if reader.is_cluster and redirect_of(text, reader.host) is not None:
                found = True
                continue
            error = refusal(reader.address, "read keys", text)
            # A command that is denied is denied for every key of its type: that is a right to grant, not a bad key.
            is_denied = text.startswith("NOAUTH") or (text.startswith("NOPERM") and "to run the" in text)
            if isinstance(error, RedisUnreachable) or is_denied:
                raise error
    return found
