"""The usual read in one go: a few keys of one server, each of the type that its event implies.

Anything else in the replies is left to a `Job`, which takes over where this stops. A batch of one key, as light load
makes them, would otherwise pay for everything that a job may have to do.
"""

from __future__ import annotations

import select
from collections.abc import Container, Sequence
from typing import Any

import hiredis

from engine.delivery.reading.asking import First
from engine.delivery.reading.connection import TooLarge
from engine.delivery.reading.job import Key, Wish
from engine.delivery.reading.node_reader import NodeReader
from engine.delivery.reading.questions import KIND_OF_EVENT, TIME, Fetched, ask, interpret_all
from engine.errors import RedisError
from engine.redis.connection import is_replica
from engine.redis.errors import lost

KEYS_MAX = 50
"""More keys share the cost of a job."""


def is_for_one_go(reader: NodeReader, keys: Sequence[Key], wish: Wish, idle_ms: int) -> bool:
    """Tell whether these keys of a lone server may be read in this way; it may have been idle for ``idle_ms``."""
    if len(keys) > KEYS_MAX or wish.include_expiry:
        return False
    reader.drop_if_closed(idle_ms)
    return reader.is_steady(len(keys))


def read_quickly(
    reader: NodeReader, keys: Sequence[Key], wish: Wish, patience_ms: int | None
) -> tuple[list[Fetched], First | None]:
    """Return the values of these keys of a server that `is_for_one_go`; else how far that has come, for a job.

    The server is late past ``patience_ms``; with None, that it is silent for too long is an error.
    """
    connection, last = reader.connection, reader.last_question
    assert connection is not None
    names, kinds = [key for key, _ in keys], [KIND_OF_EVENT[event] for _, event in keys]
    commands = TIME + ask(names, kinds) + last
    try:
        connection.begin(commands, 1 + len(names) + bool(last), reader.reply_bytes_max)
        wanted = connection.wants()
        if wanted and wanted != select.POLLIN:
            return [], First()
        wait_ms = reader.read_timeout_ms if patience_ms is None else patience_ms
        if wanted and not reader.poller().poll(wait_ms):
            return [], First(is_late=True) if patience_ms is not None else First(error=_silent(reader))
        replies = connection.go_on()
    except (RedisError, TooLarge) as error:
        return [], First(error=error)
    except BaseException:
        # Replies may be left in it, and would be taken for those of the next pipeline.
        reader.close()
        raise
    if replies is None:
        return [], First()
    values = _plain(names, kinds, replies, wish.fields)
    if not values or (wish.explained is not None and _has_gone_unexplained(keys, values, wish.explained)):
        return [], First(replies)
    # Not before, so that no version is given out in vain.
    version = reader.version_at(reader.take_time(replies[0]), 0)
    for value in values:
        value.version = version
    return values, None


def _silent(reader: NodeReader) -> RedisError:
    return lost(reader.address, TimeoutError("timed out"), reader.read_timeout_ms / 1_000, "see redis.read_timeout_ms")


def _plain(
    names: Sequence[bytes], kinds: Sequence[str], replies: Sequence[Any], fields: Container[str]
) -> list[Fetched]:
    """Return the values in these replies, without their version; none where there is more to them."""
    count = len(names)
    if hiredis.ReplyError in map(type, replies) or (len(replies) > 1 + count and is_replica(replies[-1])):
        return []
    values, again = interpret_all(names, kinds, replies[1 : 1 + count], 0, fields)
    return [] if again else values


def _has_gone_unexplained(keys: Sequence[Key], values: Sequence[Fetched], explained: Container[str]) -> bool:
    return any(value.body is None and key[1] not in explained for key, value in zip(keys, values, strict=True))
