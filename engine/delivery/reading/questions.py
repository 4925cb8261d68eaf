"""What is asked of the server for a key, and what its reply means.  (pure)"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from itertools import repeat
from typing import Any

import hiredis
import msgspec

from engine.delivery.reading.values import SORTED, body_of, document_of, dumps
from engine.redis.connection import pack
from engine.routing.events import ENTRY, EVENTS_BY_CLASS, NAMED
from engine.routing.streams import entry_of

TYPE = "?"
"""The question for a key's type."""

EXISTS = "exists"
"""The question whether a stream without entries exists: unlike other types, a stream may be empty."""

TIME = b"*1\r\n$4\r\nTIME\r\n"

EXPIRES_AT = "expires-at"
"""The question when a key expires, in Unix time (Redis 7, Valkey)."""

EXPIRES_IN = "expires-in"
"""The question in how many milliseconds a key expires, for older servers."""
ERROR_CHARS_MAX = 200
MANY = 4
"""From this many keys on, it is less work to do what is possible for all at once than for each."""

# Each as (the part before the key, with a place for its length; the part after it).
_COMMANDS: dict[str, tuple[bytes, bytes]] = {
    "hash": (b"*2\r\n$7\r\nHGETALL\r\n$%d\r\n", b"\r\n"),
    "string": (b"*2\r\n$3\r\nGET\r\n$%d\r\n", b"\r\n"),
    "list": (b"*4\r\n$6\r\nLRANGE\r\n$%d\r\n", b"\r\n$1\r\n0\r\n$2\r\n-1\r\n"),
    "set": (b"*2\r\n$8\r\nSMEMBERS\r\n$%d\r\n", b"\r\n"),
    "zset": (b"*5\r\n$6\r\nZRANGE\r\n$%d\r\n", b"\r\n$1\r\n0\r\n$2\r\n-1\r\n$10\r\nWITHSCORES\r\n"),
    "stream": (b"*4\r\n$6\r\nXRANGE\r\n$%d\r\n", b"\r\n$1\r\n-\r\n$1\r\n+\r\n"),
    # Without a path, RedisJSON takes "." in RESP2 and "$" in RESP3; "$" wraps the document in an array.
    "json": (b"*3\r\n$8\r\nJSON.GET\r\n$%d\r\n", b"\r\n$1\r\n.\r\n"),
    TYPE: (b"*2\r\n$4\r\nTYPE\r\n$%d\r\n", b"\r\n"),
    EXISTS: (b"*2\r\n$6\r\nEXISTS\r\n$%d\r\n", b"\r\n"),
    EXPIRES_AT: (b"*2\r\n$11\r\nPEXPIRETIME\r\n$%d\r\n", b"\r\n"),
    EXPIRES_IN: (b"*2\r\n$4\r\nPTTL\r\n$%d\r\n", b"\r\n"),
}
_NONE = type(None)
_ANSWERS: dict[str, Any] = {
    "hash": (dict, _NONE),
    "string": (str, _NONE),
    "list": (list, _NONE),
    "set": (list, set, _NONE),
    "zset": (list, _NONE),
    "stream": (list, _NONE),
    "json": (str, _NONE),
    TYPE: (str,),
    EXISTS: (int,),
    ENTRY: (list,),
}
"""The types of an answer that is not an error; None is a key that is gone."""
_VALUE_KINDS = frozenset(_COMMANDS) - {TYPE, EXISTS, EXPIRES_AT, EXPIRES_IN}
_KIND_OF_CLASS = {"h": "hash", "$": "string", "l": "list", "s": "set", "z": "zset", "t": "stream"}
_KIND_OF_MODULE_TYPE = {"ReJSON-RL": "json"}


class Fetched(msgspec.Struct, gc=False):
    """What a key holds: ``body`` is None and ``type`` ``none`` if it is gone; ``error`` if it can't be read.

    ``passes`` if the obstacle can change at the server: a limit, a right, a refusal. ``expires_at_ms`` is Unix time by
    the server's clock; 0 if the key does not expire, or this was not asked. ``is_taken_away`` of a key that is gone:
    the server does not evict, so the key was deleted or has expired.
    """

    key: bytes
    type: str
    body: str | None
    body_encoding: str
    version: int
    retyped: bool = False
    error: str = ""
    passes: bool = False
    expires_at_ms: int = 0
    is_taken_away: bool = False


class _KindOfEvent(dict[str, str]):
    def __missing__(self, event: str) -> str:
        return "json" if event.startswith("json.") else TYPE


KIND_OF_EVENT = _KindOfEvent(
    {event: kind for letter, kind in _KIND_OF_CLASS.items() for event in EVENTS_BY_CLASS[letter]}
    # Most keys are hashes: one that is not says so, and is asked again.
    | {NAMED: "hash", ENTRY: ENTRY}
)
"""The type that an event implies; `TYPE`, which asks for it, for every event that implies none."""


def ask(keys: Sequence[bytes], kinds: Sequence[str]) -> bytes:
    """Return the packed commands that ask for each key what its kind requires."""
    if len(keys) < MANY or len(asked := set(kinds)) > 1 or ENTRY in asked:
        return b"".join([_command(key, kind) for key, kind in zip(keys, kinds, strict=True)])
    # The part between two keys is made once for each length of a key, not for each key.
    head, tail = _COMMANDS[asked.pop()]
    heads = {size: head % size for size in set(map(len, keys))}
    if len(heads) > 1:
        return tail.join([heads[len(key)] + key for key in keys]) + tail
    (start,) = heads.values()
    return start + (tail + start).join(keys) + tail


def _command(key: bytes, kind: str) -> bytes:
    if kind == ENTRY:
        stream, entry_id = entry_of(key)
        return pack("XRANGE", stream, entry_id, entry_id)
    head, tail = _COMMANDS[kind]
    return head % len(key) + key + tail


def _keep(replies: Iterable[Any], fields: Container[str]) -> None:
    """Remove from each entry all fields except these."""
    for reply in replies:
        if reply.__class__ is list and reply:
            flat = reply[0][1]
            pairs = zip(flat[::2], flat[1::2], strict=True)
            reply[0][1] = [text for name, value in pairs if name in fields for text in (name, value)]


def expiries_of(replies: Sequence[Any], kind: str, now_ms: int) -> list[int] | None:
    """Return when each key expires: Unix ms, 0 for never, for keys that are gone, and for those that can't be read.

    None if the server does not know the question. ``kind`` is what was asked, ``now_ms`` the server's time
    before it.
    """
    if any(reply.__class__ is hiredis.ReplyError and "unknown command" in str(reply).lower() for reply in replies):
        return None
    since_ms = now_ms if kind == EXPIRES_IN else 0
    # -1 is a key that does not expire, -2 one that is gone.
    return [since_ms + reply if isinstance(reply, int) and reply >= 0 else 0 for reply in replies]


def interpret_all(
    keys: Sequence[bytes],
    kinds: Sequence[str],
    replies: Sequence[Any],
    version: int,
    fields: Container[str] = (),
) -> tuple[list[Fetched], list[tuple[int, str]]]:
    """Return a value for each reply, and for those that are still open (index, kind of question to ask next).

    ``fields`` are wanted of an entry of a stream, all if there are none.
    """
    if fields:
        _keep(replies, fields)
    values = _all_hashes(keys, kinds, replies, version) if len(replies) >= MANY else None
    if values is not None:
        return values, []
    fetched: list[Fetched] = []
    append = fetched.append
    again: list[tuple[int, str]] = []
    for key, kind, reply in zip(keys, kinds, replies, strict=True):
        # Most values are hashes: handled inline, they cost half.
        if reply.__class__ is dict and reply and kind == "hash":
            try:
                append(Fetched(key, kind, dumps(reply, None, SORTED).decode(), "", version))
                continue
            except TypeError:
                pass
        answer = interpret(key, kind, reply, version)
        if isinstance(answer, str):
            again.append((len(fetched), answer))
            answer = Fetched(key, "none", None, "", version, retyped=answer == TYPE)
        append(answer)
    return fetched, again


def _all_hashes(
    keys: Sequence[bytes], kinds: Sequence[str], replies: Sequence[Any], version: int
) -> list[Fetched] | None:
    """Return the values if all are hashes of text; None if one is not: this costs half of looking at each."""
    if set(map(type, replies)) != {dict} or set(kinds) != {"hash"} or not all(replies):
        return None
    try:
        bodies = [dumps(reply, None, SORTED).decode() for reply in replies]
    except TypeError:
        return None
    return list(map(Fetched, keys, kinds, bodies, repeat(""), repeat(version)))


def interpret(key: bytes, kind: str, reply: Any, version: int) -> Fetched | str:
    """Return the value in a reply, or the kind of question to ask next."""
    if reply.__class__ is hiredis.ReplyError:
        return _refused(key, kind, str(reply), version)
    if not isinstance(reply, _ANSWERS[kind]):
        return _unknown(key, kind, f"a {type(reply).__name__}", version)
    if kind == ENTRY:
        return _entry(key, reply, version)
    if kind == TYPE:
        return _typed(key, reply, version)
    if kind == EXISTS:
        return Fetched(key, "stream", "[]", "", version) if reply else _gone(key, version)
    if not reply and reply != "":
        return EXISTS if kind == "stream" else _gone(key, version)
    try:
        body, encoding = document_of(reply) if kind == "json" else body_of(kind, reply)
    except (AttributeError, TypeError, ValueError) as error:
        return _unknown(key, kind, str(error), version)
    return Fetched(key, kind, body, encoding, version)


def _entry(key: bytes, reply: Any, version: int) -> Fetched:
    """Return an entry's fields as a hash's; one that no longer exists can never be delivered."""
    if not reply:
        return Fetched(key, "none", None, "", version, error="the entry was deleted or trimmed before it was delivered")
    try:
        ((_, flat),) = reply
        body, encoding = body_of("hash", dict(zip(flat[::2], flat[1::2], strict=True)))
    except (AttributeError, TypeError, ValueError) as error:
        return _unknown(key, ENTRY, str(error), version)
    return Fetched(key, ENTRY, body, encoding, version)


def _gone(key: bytes, version: int) -> Fetched:
    return Fetched(key, "none", None, "", version)


def _unknown(key: bytes, kind: str, what: str, version: int) -> Fetched:
    """Return that the server's answer does not fit this question: delivering it would be a guess."""
    known = kind if kind in _VALUE_KINDS else "unknown"
    error = f"the server's answer is not that of a {kind}: {what}"
    return Fetched(key, known, None, "", version, error=error[:ERROR_CHARS_MAX])


def _typed(key: bytes, name: str, version: int) -> Fetched | str:
    kind = _KIND_OF_MODULE_TYPE.get(name, name)
    if kind in _VALUE_KINDS:
        return kind
    if kind == "none":
        return _gone(key, version)
    return Fetched(key, kind, None, "", version, error=f"keys of type {kind} have no canonical body")


def _refused(key: bytes, kind: str, text: str, version: int) -> Fetched | str:
    if kind == ENTRY:
        return Fetched(key, ENTRY, None, "", version, error=text[:ERROR_CHARS_MAX], passes=True)
    # RedisJSON has its own words for WRONGTYPE.
    if text.startswith("WRONGTYPE") or (kind == "json" and "wrong Redis type" in text):
        return TYPE
    known = kind if kind in _VALUE_KINDS else "unknown"
    return Fetched(key, known, None, "", version, error=text[:ERROR_CHARS_MAX], passes=True)
