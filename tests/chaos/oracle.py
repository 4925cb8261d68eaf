"""The judge: what Redis holds at the end against what the destination holds.

It shares no code with the engine or its functions: of an item it knows what the function's README promises (``id``,
``body``, ``body_encoding``, ``deleted_at_ms``), of a value what the record's documentation promises of its JSON.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from tests.chaos.ledger import NUMBER_FIELD, Ledger

DETAILS_MAX = 12
NO_TOUCH = ("CLIENT", "NO-TOUCH", "ON")
"""Servers before Redis 7.2 do not know it."""
_SCAN_COUNT = 1_000
_PIPELINE = 500
_READS: dict[str, tuple[str, ...]] = {
    "hash": ("HGETALL",),
    "string": ("GET",),
    "list": ("LRANGE", "0", "-1"),
    "set": ("SMEMBERS",),
    "zset": ("ZRANGE", "0", "-1", "WITHSCORES"),
    "stream": ("XRANGE", "-", "+"),
}


@dataclass(frozen=True, slots=True)
class Truth:
    """A value in Redis; its strings are bytes."""

    kind: str
    content: Any


@dataclass(frozen=True, slots=True)
class Item:
    """A value in the destination: the JSON text of a body, and whether its strings are base64."""

    body: str
    is_base64: bool = False


@dataclass
class Verdict:
    """How the destination differs; all zero is a pass, but for ``redis_lost``, which is not the engine's doing."""

    keys: int = 0
    lost: int = 0
    stale: int = 0
    invented: int = 0
    redis_lost: int = 0
    details: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Tell whether the destination equals the truth."""
        return not (self.lost or self.stale or self.invented)

    def add(self, what: str, key: bytes, held: Item | None, truth: Truth | None) -> None:
        """Count a difference."""
        setattr(self, what, getattr(self, what) + 1)
        if len(self.details) < DETAILS_MAX:
            self.details.append(f"{what}: {key!r} holds {_short(held)}, should hold {_short(truth)}")


def judge(
    truth: Mapping[bytes, Truth],
    items: Mapping[bytes, Item],
    ledger: Ledger,
    *,
    absent_may_stay: bool = False,
    exempt: Callable[[bytes], bool] | None = None,
) -> Verdict:
    """Compare every key of Redis, of the destination and of the ledger.

    *lost*: the destination does not hold a key that Redis holds, or still holds one that is gone. *stale*: it holds
    another value of this key than Redis does, one that was sent once. *invented*: it holds a key or a value that nobody
    ever sent. ``absent_may_stay``: what is gone from Redis may still be held with a value that was sent.
    """
    verdict = Verdict()
    for key in sorted(truth.keys() | items.keys() | ledger.keys()):
        if exempt is not None and exempt(key):
            continue
        verdict.keys += 1
        held, right = items.get(key), truth.get(key)
        if ledger.lost_by_redis(key, _number(right)):
            verdict.redis_lost += 1
        what = _difference(key, held, right, ledger)
        if what == "lost" and right is None and absent_may_stay:
            continue
        if what:
            verdict.add(what, key, held, right)
    return verdict


def _difference(key: bytes, held: Item | None, right: Truth | None, ledger: Ledger) -> str:
    if held is None:
        return "" if right is None else "lost"
    if right is not None and is_same(held, right):
        return ""
    if not ledger.knows(key) or not ledger.may_hold(key, strings_of(held)):
        return "invented"
    return "lost" if right is None else "stale"


def is_same(held: Item, right: Truth) -> bool:
    """Tell whether an item's body is this value."""
    try:
        return bool(_plain(right) == _decoded(held, right.kind))
    except (TypeError, ValueError, AttributeError):
        return False


def strings_of(held: Item) -> Iterator[bytes]:
    """Return all strings of a body; numbers (scores) are not among them."""
    try:
        yield from _leaves(json.loads(held.body), held.is_base64)
    except ValueError:
        yield held.body.encode()


def _leaves(content: Any, is_base64: bool) -> Iterator[bytes]:
    if isinstance(content, dict):
        content = [*content.keys(), *content.values()]
    if isinstance(content, list):
        for one in content:
            yield from _leaves(one, is_base64)
    elif isinstance(content, str):
        yield _bytes(content, is_base64)


def _plain(right: Truth) -> Any:
    """Return a value of Redis in a form that can be compared: what has no order loses it."""
    if right.kind == "set":
        return sorted(right.content)
    if right.kind == "zset":
        return {member: float(score) for member, score in right.content}
    return right.content


def _decoded(held: Item, kind: str) -> Any:
    """Return a body in the same form; raises where it has another shape."""
    content = json.loads(held.body)

    def raw(text: str) -> bytes:
        return _bytes(text, held.is_base64)

    match kind:
        case "hash":
            return {raw(name): raw(value) for name, value in content.items()}
        case "string":
            return raw(content)
        case "list":
            return [raw(one) for one in content] if isinstance(content, list) else None
        case "set":
            return sorted(raw(one) for one in content) if isinstance(content, list) else None
        case "zset":
            return {raw(member): float(score) for member, score in content}
        case "stream":
            return [(number.encode(), [(raw(name), raw(value)) for name, value in pairs]) for number, pairs in content]
    return content


def _bytes(text: str, is_base64: bool) -> bytes:
    return base64.b64decode(text, validate=True) if is_base64 else text.encode()


def _number(right: Truth | None) -> bytes | None:
    if right is None or right.kind != "hash":
        return None
    number: bytes | None = right.content.get(NUMBER_FIELD)
    return number


def _short(value: Item | Truth | None) -> str:
    if value is None:
        return "nothing"
    text = value.body if isinstance(value, Item) else repr(value.content)
    return text if len(text) <= 120 else text[:117] + "…"


def count_duplicates(invocations: Sequence[Mapping[str, Any]]) -> int:
    """Return how many records brought what an earlier, successful invocation had brought already.

    A function's deliveries are compared with its own alone. Values are told apart by their text, which is unique; a
    delete counts where the key's last delivery was one too.
    """
    seen: set[tuple[str, str, str]] = set()
    gone: set[tuple[str, str]] = set()
    duplicates = 0
    for invocation in sorted(invocations, key=lambda one: one["ended_ns"]):
        if invocation["error"] or not isinstance(invocation.get("event"), dict):
            continue
        for record in invocation["event"].get("records", [invocation["event"]]):
            key, body = (invocation["function"], str(record.get("id"))), record.get("body")
            if body is None:
                duplicates += key in gone
                gone.add(key)
            else:
                duplicates += (*key, body) in seen
                seen.add((*key, body))
                gone.discard(key)
    return duplicates


def may_look_unnoticed(connection: redis.Connection) -> bool:
    """Tell whether this server lets us read without changing when its keys were last used."""
    try:
        _ask(connection, [NO_TOUCH])
    except redis.ResponseError:
        return False
    return True


def read_truth(port: int) -> dict[bytes, Truth]:
    """Return all that the server on this port holds; where it can, without changing when its keys were last used."""
    connection = redis.Connection(port=port, protocol=2, socket_timeout=10)
    try:
        return read_all(connection)
    finally:
        connection.disconnect()


def read_all(
    connection: redis.Connection, is_its_own: Callable[[bytes], bool] = lambda key: True
) -> dict[bytes, Truth]:
    """Return all that this server holds, as `read_truth`; keys that are not its own it would not give."""
    may_look_unnoticed(connection)
    keys = [key for key in _all_keys(connection) if is_its_own(key)]
    kinds = [kind.decode() for kind in _ask(connection, [("TYPE", key) for key in keys])]
    readable = [(key, kind) for key, kind in zip(keys, kinds, strict=True) if kind in _READS]
    replies = _ask(connection, [(_READS[kind][0], key, *_READS[kind][1:]) for key, kind in readable])
    pairs = zip(readable, replies, strict=True)
    # A key that has expired since it was listed has an empty reply; but a stream may be there without an entry.
    return {
        key: Truth(kind, _content(kind, reply))
        for (key, kind), reply in pairs
        if reply or reply == b"" or kind == "stream"
    }


def _all_keys(connection: redis.Connection) -> list[bytes]:
    found: dict[bytes, None] = {}
    cursor = b"0"
    while True:
        ((cursor, keys),) = _ask(connection, [("SCAN", cursor, "COUNT", _SCAN_COUNT)])
        found.update(dict.fromkeys(keys))
        if cursor == b"0":
            return list(found)


def _ask(connection: redis.Connection, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return the replies as RESP2 has them: strings are bytes, all else are lists."""
    replies: list[Any] = []
    for start in range(0, len(commands), _PIPELINE):
        some = commands[start : start + _PIPELINE]
        connection.send_packed_command(connection.pack_commands(some))
        replies += [connection.read_response() for _ in some]
    return replies


def _content(kind: str, reply: Any) -> Any:
    match kind:
        case "hash":
            return dict(_pairs(reply))
        case "zset":
            return _pairs(reply)
        case "stream":
            return [(number, _pairs(fields)) for number, fields in reply]
    return reply


def _pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def read_items(client: Any, table: str) -> dict[bytes, Item]:
    """Return all that a DynamoDB table holds; tombstones are nothing."""
    found: dict[bytes, Item] = {}
    for page in client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True):
        for item in page["Items"]:
            if "deleted_at_ms" not in item:
                is_base64 = item.get("body_encoding", {}).get("S") == "base64"
                found[key_of(item["id"]["S"])] = Item(item["body"]["S"], is_base64)
    return found


def key_of(stored: str) -> bytes:
    """Return the Redis key of an item: ``base64:…`` for bytes, ``utf8:`` before what would be mistaken for that."""
    if stored.startswith("base64:"):
        return base64.b64decode(stored.removeprefix("base64:"))
    return stored.removeprefix("utf8:").encode()
