"""The server's notification flags: what the routes need, merged into what is set, or found out by trying.

The engine is a guest: others rely on the flags that are set, so none is ever removed. If ``CONFIG`` is refused, as
managed services do, a canary shows whether events arrive: short-lived keys, and the events that are heard for them.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto

import hiredis

from engine.capture.own_keys import CANARY_PREFIX
from engine.config import RedisSettings
from engine.errors import NotificationsOff
from engine.redis.connection import NOTHING, RespConnection, pack
from engine.redis.errors import not_redis, passes, refusal
from engine.routing.byte_classes import channel_prefix
from engine.routing.events import notification_flags
from engine.routing.nodes import Node, slot_of
from engine.routing.routes import RouteTable, merge_flags

SETTING = "notify-keyspace-events"
MAPPING_EVENTS = ("hset", "hdel", "del", "rename_from", "rename_to", "restore", "copy_to")
CANARY_LIFE_S = 10
CANARY_WAIT_S = 2.0

_CANARIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "$": ("set", ("SET", "1")),
    "l": ("rpush", ("RPUSH", "1")),
    "s": ("sadd", ("SADD", "1")),
    "h": ("hset", ("HSET", "canary", "1")),
    "z": ("zadd", ("ZADD", "1", "1")),
    "t": ("xadd", ("XADD", "*", "canary", "1")),
    "g": ("expire", ()),
}
"""Class of events → the event, and the command (less its key) that makes it. Each canary gets an expiry, which is
an event of class ``g``. What needs time, pressure or a module (``x``, ``e``, ``d``, …) is not tried."""


class Flags(Enum):
    """What became of the flags."""

    THERE = auto()
    MERGED = auto()
    CONFIG_REFUSED = auto()


def needed_flags(table: RouteTable, mapping_prefix: str) -> str:
    """Return the flags for the events of all routes, and of the original's mapping hashes where they are used."""
    return notification_flags(table.events() | set(MAPPING_EVENTS if mapping_prefix else ()))


def see_to_flags(connection: RespConnection, needed: str, *, may_set: bool) -> Flags:
    """Merge the missing flags into the server's; raise `NotificationsOff` if that is not allowed."""
    reply = connection.call("CONFIG", "GET", SETTING)
    current = _value(reply)
    if current is None:
        return Flags.CONFIG_REFUSED
    merged = merge_flags(current, needed)
    if merged == current:
        return Flags.THERE
    has = f"{connection.address}: {SETTING} is {current!r}, and the routes need {needed!r} in it"
    if not may_set:
        raise NotificationsOff(
            has, hint=f"run CONFIG SET {SETTING} {merged}, or let the engine do so: redis.set_notifications = true"
        )
    answer = connection.call("CONFIG", "SET", SETTING, merged)
    if isinstance(answer, hiredis.ReplyError):
        raise NotificationsOff(
            f"{has}; the server refuses to set it: {answer}",
            hint=f"set {SETTING} to {merged} in its configuration or parameter group, "
            "or grant the engine's user +config|set",
        )
    return Flags.MERGED


def _value(reply: object) -> str | None:
    """Return a setting's value from the answer to ``CONFIG GET``, RESP2 or RESP3; None if there is none."""
    if isinstance(reply, Mapping):
        reply = [word for pair in reply.items() for word in pair]
    if not isinstance(reply, list) or len(reply) != 2:
        return None
    value = reply[1]
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def try_canary(redis: RedisSettings, database: int, needed: str, node: Node) -> str:
    """Check whether events of the needed classes arrive; return a warning if that can't be found out.

    Writes one key per class, named `CANARY_PREFIX` and a random word, which expires within seconds and is deleted at
    once; in a cluster the word is one whose slot is the node's. Raises `NotificationsOff`, or `RedisRefused` where the
    user may not write it.
    """
    classes = canary_letters(needed)
    if not classes:
        return f"the server refuses CONFIG, so it is unknown whether {SETTING} holds {needed!r}"
    if not node.slots:
        # It takes no key, so it has no events either.
        return ""
    word = _word_of(node)
    keys = {letter: f"{CANARY_PREFIX}{word}:{number}" for number, letter in enumerate(classes)}
    writer = RespConnection.open(redis, name="engine-canary-writer", protocol=2, database=database)
    listener = RespConnection.open(redis, name="engine-canary", protocol=2, database=database)
    try:
        prefix = channel_prefix(database)
        listener.send(pack("SUBSCRIBE", *(prefix + key.encode() for key in keys.values())))
        heard: set[str] = set()
        _listen(listener, heard, lambda: len(heard) < len(keys), "subscribe")
        refused = canary_refusal(writer.pipeline(*canary_commands(keys)))
        if refused.startswith("READONLY"):
            return f"the server is a replica and refuses CONFIG, so it is unknown whether {SETTING} holds {needed!r}"
        if refused and passes(refused):
            return (
                f"the server refuses CONFIG, and accepts no canary at the moment, so it is unknown whether {SETTING} "
                f"holds {needed!r}: it is retried, and no watermark counts until then: {refused}"
            )
        if refused:
            raise refusal(writer.address, "let the engine read its settings, or write a canary instead", refused)
        wanted = {_CANARIES[letter][0] for letter in classes}
        heard.clear()
        _listen(listener, heard, lambda: not wanted <= heard, "message")
        missing = "".join(letter for letter in classes if _CANARIES[letter][0] not in heard)
        if missing:
            raise NotificationsOff(
                f"{writer.address} refuses CONFIG, and sends no keyspace events of the classes {missing!r}",
                hint=f"set {SETTING} to {needed} in its parameter group (a service without that setting, such as "
                "ElastiCache Serverless, can't notify)",
            )
        return ""
    finally:
        listener.close()
        writer.close()


def _word_of(node: Node) -> str:
    """Return a random word that keeps the canaries on this node."""
    word = uuid.uuid4().hex
    if node.has_all():
        return word
    words = (f"{{{word}{number}}}" for number in itertools.count())
    return next(word for word in words if node.has_slot(slot_of(word.encode())))


def canary_letters(needed: str) -> list[str]:
    """Return the classes of events among these that a canary can make."""
    return [letter for letter in _CANARIES if letter in needed]


def canary_event(letter: str) -> str:
    """Return the event of a class by which its canary is known."""
    return _CANARIES[letter][0]


def canary_commands(keys: Mapping[str, str]) -> tuple[bytes, int]:
    """Return what writes the canaries (class → key), each with an expiry, and deletes them; and how many replies."""
    commands: list[bytes] = []
    for letter, key in keys.items():
        name, *arguments = _CANARIES[letter][1] or ("SET", "1")
        commands += [
            pack("MULTI"),
            pack(name, key, *arguments),
            pack("EXPIRE", key, CANARY_LIFE_S),
            pack("EXEC"),
            pack("DEL", key),
        ]
    return b"".join(commands), len(commands)


def canary_refusal(replies: Sequence[object]) -> str:
    """Return the first refusal among the replies to canaries, one that lasts before all others; "" for none."""
    refused = [str(reply) for reply in replies if isinstance(reply, hiredis.ReplyError)]
    # If the user may not run EXEC itself, that is the reason in an EXECABORT.
    refused = [text.removeprefix("EXECABORT Transaction discarded because of: ") for text in refused]
    refused = [text for text in refused if not text.startswith("EXECABORT")]
    return min(refused, key=passes, default="")


def _listen(listener: RespConnection, heard: set[str], is_wanted: Callable[[], bool], kind: str) -> None:
    """Note what arrives (confirmed channels, or events) while it is wanted, for at most `CANARY_WAIT_S`."""
    deadline = time.monotonic() + CANARY_WAIT_S
    while is_wanted() and time.monotonic() < deadline:
        try:
            reply = listener.reply()
        except hiredis.ProtocolError as error:
            raise not_redis(listener.address, error) from error
        if reply is NOTHING:
            if not listener.receive_available():
                time.sleep(0.005)
        elif isinstance(reply, hiredis.ReplyError):
            raise refusal(listener.address, "subscribe", str(reply))
        elif reply[0] == kind.encode():
            heard.add(reply[1 if kind == "subscribe" else 2].decode())
