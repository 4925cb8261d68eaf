"""Pipelined reads: dirty keys → their values, as they are now.

The event tells the likely type, so most keys cost one command and no question. A key of another type answers
``WRONGTYPE`` and is asked again, by its real type. ``TIME`` goes first in each pipeline: a connection's commands
run in order, so a value is never older than the version it is given. The versions of one fetcher never go backwards,
and no two of its pipelines share one, even where the node's clock stands still or jumps back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import hiredis
import orjson

from engine.config import RedisSettings
from engine.connection import RespConnection
from engine.delivery.values import body_of
from engine.errors import RedisError

ROUNDS_MAX = 4
"""A key that changes its type faster than this is left for its next event, which is on its way."""

_COMMANDS: dict[str, tuple[bytes, bytes]] = {
    "hash": (b"*2\r\n$7\r\nHGETALL\r\n", b""),
    "string": (b"*2\r\n$3\r\nGET\r\n", b""),
    "list": (b"*4\r\n$6\r\nLRANGE\r\n", b"$1\r\n0\r\n$2\r\n-1\r\n"),
    "set": (b"*2\r\n$8\r\nSMEMBERS\r\n", b""),
    "zset": (b"*5\r\n$6\r\nZRANGE\r\n", b"$1\r\n0\r\n$2\r\n-1\r\n$10\r\nWITHSCORES\r\n"),
    "stream": (b"*4\r\n$6\r\nXRANGE\r\n", b"$1\r\n-\r\n$1\r\n+\r\n"),
    "json": (b"*2\r\n$8\r\nJSON.GET\r\n", b""),
    "?": (b"*2\r\n$4\r\nTYPE\r\n", b""),
    "exists": (b"*2\r\n$6\r\nEXISTS\r\n", b""),
}
_TIME = b"*1\r\n$4\r\nTIME\r\n"
_STRING_EVENTS = frozenset({"set", "setrange", "incrby", "decrby", "incrbyfloat", "append", "getset", "setex", "psetex"})
_MODULE_TYPES = {"ReJSON-RL": "json"}
_FIRST_LETTERS = {"h": "hash", "l": "list", "s": "set", "z": "zset", "x": "stream"}
_LIST_EVENTS = frozenset({"rpush", "rpop", "sortstore"})
_GENERIC = frozenset(
    {"del", "rename_from", "rename_to", "move_from", "move_to", "copy_to", "restore", "expire", "persist", "expired"}
    | {"evicted", "new", "getdel", "georadiusstore", "geosearchstore"}
)


class Fetched:
    """What a key holds: ``body`` is None and ``type`` ``none`` where it is gone; ``error`` where it can't be read."""

    __slots__ = ("body", "body_encoding", "error", "key", "retyped", "type", "version")

    def __init__(self, key: bytes, kind: str, body: str | None, encoding: str, version: int) -> None:
        self.key = key
        self.type = kind
        self.body = body
        self.body_encoding = encoding
        self.version = version
        self.retyped = False
        self.error = ""


def type_of_event(event: str) -> str:
    """Return the type that an event implies, ``?`` where it implies none."""
    if event in _GENERIC:
        return "?"
    if event in _STRING_EVENTS:
        return "string"
    if event in _LIST_EVENTS:
        return "list"
    if event.startswith("json."):
        return "json"
    return _FIRST_LETTERS.get(event[:1], "?")


class Fetcher:
    """Reads for one invoker, on one connection that it makes, and makes again, by itself."""

    def __init__(self, redis: RedisSettings, database: int, name: str, keys_max: int = 500) -> None:
        self._redis = redis
        self._database = database
        self._name = name
        self._keys_max = keys_max
        self._connection: RespConnection | None = None
        self._version = 0

    def fetch(self, keys: Sequence[tuple[bytes, str]]) -> list[Fetched]:
        """Return the values of these (key, event name) pairs, in their order.

        Raises `RedisUnreachable` or `RedisRefused`; the next call connects again.
        """
        fetched: list[Fetched] = []
        try:
            for start in range(0, len(keys), self._keys_max):
                fetched.extend(self._fetch(keys[start : start + self._keys_max]))
        except RedisError:
            self.close()
            raise
        return fetched

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _fetch(self, keys: Sequence[tuple[bytes, str]]) -> list[Fetched]:
        results: list[Fetched | None] = [None] * len(keys)
        asked = [(index, key, type_of_event(event)) for index, (key, event) in enumerate(keys)]
        retyped: set[int] = set()
        for _ in range(ROUNDS_MAX):
            replies, version = self._ask((key, kind) for _, key, kind in asked)
            again: list[tuple[int, bytes, str]] = []
            for (index, key, kind), reply in zip(asked, replies, strict=True):
                answer = _interpret(key, kind, reply, version)
                if isinstance(answer, str):
                    if answer == "?":
                        retyped.add(index)
                    again.append((index, key, answer))
                else:
                    results[index] = answer
            asked = again
            if not asked:
                break
        for index, key, _ in asked:
            results[index] = unread = Fetched(key, "none", None, "", self._version)
            unread.error = "its type changed faster than it could be read"
        for index in retyped:
            value = results[index]
            assert value is not None
            value.retyped = True
        return [value for value in results if value is not None]

    def _ask(self, questions: Iterable[tuple[bytes, str]]) -> tuple[list[Any], int]:
        parts = [_TIME]
        append = parts.append
        for key, kind in questions:
            before, after = _COMMANDS[kind]
            append(b"%b$%d\r\n%b\r\n%b" % (before, len(key), key, after))
        if self._connection is None:
            self._connection = RespConnection.open(
                self._redis, name=self._name, protocol=3, encoding="utf-8", database=self._database
            )
        replies = self._connection.pipeline(b"".join(parts), len(parts))
        return replies[1:], self._next_version(replies[0])

    def _next_version(self, time: Any) -> int:
        if not isinstance(time, hiredis.ReplyError):
            self._version = max(self._version + 1, int(time[0]) * 1_000_000 + int(time[1]))
        else:
            self._version += 1
        return self._version


def _interpret(key: bytes, kind: str, reply: Any, version: int) -> Fetched | str:
    """Return the value in a reply, or the question to ask next."""
    if isinstance(reply, hiredis.ReplyError):
        return _refused(key, kind, str(reply), version)
    if kind == "?":
        return _typed(key, str(reply), version)
    if kind == "exists":
        return Fetched(key, "stream", "[]", "", version) if reply else Fetched(key, "none", None, "", version)
    if kind == "stream" and not reply:
        return "exists"
    if reply is None or (not reply and kind != "string"):
        return Fetched(key, "none", None, "", version)
    if kind == "json":
        return Fetched(key, "json", orjson.dumps(orjson.loads(reply)).decode(), "", version)
    body, encoding = body_of(kind, reply)
    return Fetched(key, kind, body, encoding, version)


def _typed(key: bytes, kind: str, version: int) -> Fetched | str:
    kind = _MODULE_TYPES.get(kind, kind)
    if kind == "none":
        return Fetched(key, "none", None, "", version)
    if kind in _COMMANDS:
        return kind
    unread = Fetched(key, kind, None, "", version)
    unread.error = f"keys of type {kind} have no canonical body"
    return unread


def _refused(key: bytes, kind: str, text: str, version: int) -> Fetched | str:
    if text.startswith("WRONGTYPE") or (kind == "json" and "wrong Redis type" in text):
        return "?"
    unread = Fetched(key, kind, None, "", version)
    unread.error = text[:200]
    return unread
