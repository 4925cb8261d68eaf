"""Pipelined reads: dirty keys → their values, as they are now.

The event tells the likely type, so most keys cost one command and no question. A key of another type answers
``WRONGTYPE``, is asked for its type, and read again.

**Versions.** ``TIME`` goes first in each pipeline, and a connection's commands run in order: a value was read after the
moment that is its version, never before it. So of two values the one with the higher version is the newer one, or
they are equal. Every pipeline of a fetcher has a higher version than the one before, even where the node's clock stands
still or another node answers whose clock is behind: then versions go on from the highest one, as fast as time does.
The highest version outlives its fetcher (``version_floor``). Two engines are ordered by the node's clock alone.

**Bounds.** A pipeline whose replies grow past ``REPLY_BYTES_MAX`` is given up and read again in halves, down to the one
key that can't be read at all; the halved size is kept, and doubles again while replies are small. A server, or a proxy,
has bounds of its own, and ends a connection whose replies are past them: then the same is done.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Sequence
from typing import Any

import hiredis

from engine.config import RedisSettings
from engine.delivery.reading.gone import QUESTIONS, FoundGone
from engine.delivery.reading.questions import (
    EXISTS,
    EXPIRES_AT,
    EXPIRES_IN,
    KIND_OF_EVENT,
    TIME,
    TYPE,
    Fetched,
    ask,
    expiries_of,
    interpret,
    interpret_all,
)
from engine.errors import RedisClosed, RedisUnreachable
from engine.observe.logs import get_logger
from engine.redis.connection import RespConnection
from engine.redis.errors import refusal

__all__ = ["Fetched", "Fetcher", "Key"]

log = get_logger(__name__)

ROUNDS_MAX = 5
"""Read, ask for the type, read, ask, read: a key that changes its type faster will have an event of its own."""

KEYS_MAX = 500
REPLY_BYTES_MAX = 64 * 1024 * 1024
"""Replies of one pipeline. More than 6 MB of JSON fits no invocation, and RESP is at most twice as long."""

CLOSES_MAX = 3
"""So often in a row a connection ends while one key is read alone; then it is the key, not the connection."""
PIPELINES_A_DOUBLING = 100
"""Pipelines that a size is kept for which had to be found by closes: each of those costs a connection."""
LIMITS = "client-output-buffer-limit normal, maxmemory-clients, or the limit of a proxy"

Key = tuple[bytes, str]
"""A key and the name of its newest event."""


class Fetcher:
    """Reads for one invoker, on one connection that it makes, and makes again, by itself."""

    def __init__(
        self,
        redis: RedisSettings,
        database: int,
        name: str,
        keys_max: int = KEYS_MAX,
        reply_bytes_max: int = REPLY_BYTES_MAX,
        version_floor: int = 0,
    ) -> None:
        self._redis = redis
        self._database = database
        self._name = name
        self._keys_max = keys_max
        self._reply_bytes_max = reply_bytes_max
        self._keys_now = keys_max
        self._doubles_after = 0
        """Pipelines until a larger one is tried again."""
        self._closes = (b"", 0)
        """Which key alone was last read when a connection ended, and how often in a row."""
        self._connection: _Connection | None = None
        self.version = version_floor
        """The highest that was given out (µs); a successor goes on from it."""
        self._ahead = 0
        self._expiry_question = EXPIRES_AT
        self._found_gone = FoundGone()

    def fetch(
        self,
        keys: Sequence[Key],
        body_chars_max: int | None = None,
        *,
        include_expiry: bool = False,
        explained: Container[str] | None = None,
        age_ms: int = 0,
    ) -> list[Fetched]:
        """Return the values of these (key, event name) pairs, in their order, and with
        ``include_expiry`` when they expire.

        With ``explained``, find out whether keys that are gone after other events than these were taken away; changes
        are ``age_ms`` old at most.

        With ``body_chars_max``, stop after the pipeline with which the bodies become longer than that: then the
        values are those of the first keys only, of one at least. Raises `RedisUnreachable` or `RedisRefused`; the
        next call connects again.
        """
        fetched: list[Fetched] = []
        chars = 0
        self._drop_if_closed()
        try:
            while len(fetched) < len(keys):
                values = self._fetch_some(keys[len(fetched) : len(fetched) + self._keys_now], include_expiry)
                if explained is not None:
                    self._explain(keys[len(fetched) :], values, explained, age_ms)
                fetched += values
                if body_chars_max is not None:
                    chars += sum(len(value.body) for value in values if value.body is not None)
                    if chars > body_chars_max:
                        break
        except BaseException:
            # Replies may be left in it, and would be taken for those of the next pipeline.
            self.close()
            raise
        return fetched

    def _explain(self, keys: Sequence[Key], values: Sequence[Fetched], explained: Container[str], age_ms: int) -> None:
        """Mark keys that are gone as taken away, where they were for certain."""
        gone = [
            value
            for (_, event), value in zip(keys, values, strict=False)
            if value.type == "none" and not value.error and event not in explained
        ]
        if not gone:
            return
        replies = self._connected().bounded_pipeline(b"".join(QUESTIONS), len(QUESTIONS), self._reply_bytes_max)
        is_taken_away = self._found_gone.is_taken_away(len(gone), age_ms, replies, self.version - self._ahead)
        for value in gone:
            value.is_taken_away = is_taken_away

    def _drop_if_closed(self) -> None:
        """Forget a connection that the server closed while it was idle (its ``timeout``): no failure, just old."""
        try:
            if self._connection is not None:
                self._connection.receive_available()
        except RedisUnreachable:
            self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _fetch_some(self, keys: Sequence[Key], include_expiry: bool) -> list[Fetched]:
        """Return the values of the first keys: of as many as one pipeline can read within the bounds."""
        while True:
            # What goes wrong while a connection is made is not the pipeline's fault.
            self._connected()
            try:
                values = self._fetch(keys, include_expiry)
            except _TooLarge:
                self.close()
                if len(keys) == 1:
                    return [self._too_large(keys[0][0])]
            except RedisClosed as error:
                self.close()
                self._doubles_after = PIPELINES_A_DOUBLING
                if len(keys) == 1:
                    return [self._closed(keys[0][0], error)]
                log.warning("pipeline_closed", keys=len(keys), error=str(error), hint=f"half as many now: {LIMITS}")
            else:
                self._grow(keys)
                return values
            keys = keys[: len(keys) // 2]
            self._keys_now = len(keys)

    def _grow(self, keys: Sequence[Key]) -> None:
        """Take in that a pipeline of these went well."""
        if self._closes[1] and any(key == self._closes[0] for key, _ in keys):
            self._closes = (b"", 0)
        if self._doubles_after:
            self._doubles_after -= 1
        elif self._keys_now < self._keys_max and self._connected().received_bytes < self._reply_bytes_max // 4:
            self._keys_now = min(self._keys_max, self._keys_now * 2)

    def _closed(self, key: bytes, error: RedisClosed) -> Fetched:
        """Return a key that can't be read because each connection ends with it; raise while that may be by chance."""
        closes = self._closes[1] + 1 if self._closes[0] == key else 1
        self._closes = (key, closes)
        if closes < CLOSES_MAX:
            raise RedisClosed(error.message, hint=f"while one value was read; see the server's {LIMITS}") from error
        self._closes = (b"", 0)
        told = f"{error.message}, {CLOSES_MAX} times while its value was read: see the server's {LIMITS}"
        return Fetched(key, "none", None, "", self.version, error=told, passes=True)

    def _too_large(self, key: bytes) -> Fetched:
        limit = self._reply_bytes_max
        return Fetched(key, "none", None, "", self.version, error=f"its value is larger than {limit} bytes")

    def _fetch(self, keys: Sequence[Key], include_expiry: bool) -> list[Fetched]:
        names, kinds = [key for key, _ in keys], [KIND_OF_EVENT[event] for _, event in keys]
        # First, so that no value is older than its expiry: what changes in between has an event of its own.
        expiries = self._expiries(names) if include_expiry else ()
        replies, version = self._ask(names, kinds)
        fetched, again = interpret_all(names, kinds, replies, version)
        if again:
            self._settle(fetched, again)
        for value, expires_at_ms in zip(fetched, expiries, strict=False):
            value.expires_at_ms = expires_at_ms
        return fetched

    def _expiries(self, names: list[bytes]) -> list[int]:
        """Return when each key expires; servers before Redis 7 are asked how long it still has."""
        for question in dict.fromkeys((self._expiry_question, EXPIRES_IN)):
            replies, version = self._ask(names, [question] * len(names))
            expiries = expiries_of(replies, question, (version - self._ahead) // 1_000)
            if expiries is not None:
                self._expiry_question = question
                return expiries
        raise refusal(self._connected().address, "tell when keys expire", str(replies[0]))

    def _settle(self, fetched: list[Fetched], again: list[tuple[int, str]]) -> None:
        """Ask on for those that the first round left open, until none is left, or the rounds are over."""
        for _ in range(ROUNDS_MAX - 1):
            pending, again = again, []
            replies, version = self._ask([fetched[index].key for index, _ in pending], [kind for _, kind in pending])
            for (index, kind), reply in zip(pending, replies, strict=True):
                before = fetched[index]
                answer = interpret(before.key, kind, reply, version)
                if isinstance(answer, str):
                    again.append((index, answer))
                    before.version = version
                    before.retyped = before.retyped or answer == TYPE
                    continue
                if kind == EXISTS:
                    # That it was empty is what the round before saw: that round's version is the one to tell.
                    answer.version = before.version
                answer.retyped = before.retyped
                fetched[index] = answer
            if not again:
                return
        for index, _ in again:
            fetched[index].error = "its type changed faster than it could be read"

    def _ask(self, keys: list[bytes], kinds: list[str]) -> tuple[list[Any], int]:
        """Return the replies to these questions, and the version of what they say."""
        connection = self._connected()
        replies = connection.bounded_pipeline(TIME + ask(keys, kinds), len(keys) + 1, self._reply_bytes_max)
        if hiredis.ReplyError in map(type, replies):
            _raise_for_all(connection.address, replies)
        seconds, microseconds = replies.pop(0)
        told = int(seconds) * 1_000_000 + int(microseconds)
        # A clock that is behind stays ahead of itself by as much: two engines that see the same jump keep their order.
        self._ahead = max(self._ahead, self.version + 1 - told)
        self.version = told + self._ahead
        return replies, self.version

    def _connected(self) -> _Connection:
        if self._connection is None:
            connection = _Connection.open(
                self._redis, name=self._name, protocol=3, encoding="utf-8", database=self._database
            )
            assert isinstance(connection, _Connection)
            self._connection = connection
        return self._connection


class _TooLarge(Exception):
    """The replies of a pipeline grew past their bound; the connection is of no more use."""


class _Connection(RespConnection):
    """A connection that counts what it receives, and stops at a bound."""

    received_bytes = 0
    _received_bytes_max = sys.maxsize

    def bounded_pipeline(self, commands: bytes, count: int, reply_bytes_max: int) -> list[Any]:
        """Return the replies; raise `_TooLarge` where they are longer than that."""
        self.received_bytes, self._received_bytes_max = 0, reply_bytes_max
        return self.pipeline(commands, count)

    def _take(self, size: int) -> None:
        self.received_bytes += size
        if self.received_bytes > self._received_bytes_max:
            raise _TooLarge
        super()._take(size)


def _raise_for_all(address: object, replies: list[Any]) -> None:
    """Raise what an error says of the server or the connection; one that concerns its key alone raises nothing."""
    if isinstance(replies[0], hiredis.ReplyError):
        raise refusal(address, "tell its time, which orders the values", str(replies[0]))
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            error = refusal(address, "read keys", text)
            # A command that is denied is denied for every key of its type: that is a right to grant, not a bad key.
            is_denied = text.startswith("NOAUTH") or (text.startswith("NOPERM") and "to run the" in text)
            if isinstance(error, RedisUnreachable) or is_denied:
                raise error
