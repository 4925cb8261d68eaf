"""The names of keyspace events, their classes, and the server's notification flags.  (pure)

Names and classes are those of the servers' own sources (Redis 7.0 to 8, Valkey 7.2 to 9, the JSON modules).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EVENT_CHARS_MAX = 128
"""Of an event's name; the servers' own have at most 21, a module's may be longer."""

EVENTS_BY_CLASS: dict[str, tuple[str, ...]] = {
    "g": (
        "copy_to",
        "del",
        "expire",
        "move_from",
        "move_to",
        "persist",
        "rename_from",
        "rename_to",
        "restore",
    ),
    "$": ("append", "incrby", "incrbyfloat", "pfadd", "set", "setbit", "setrange"),
    "l": ("linsert", "lpop", "lpush", "lrem", "lset", "ltrim", "rpop", "rpush", "sortstore"),
    "s": ("sadd", "sdiffstore", "sinterstore", "spop", "srem", "sunionstore"),
    "h": ("hdel", "hexpire", "hexpired", "hincrby", "hincrbyfloat", "hpersist", "hset"),
    "z": (
        "georadiusstore",
        "geosearchstore",
        "zadd",
        "zdiffstore",
        "zincr",
        "zinterstore",
        "zpopmax",
        "zpopmin",
        "zrangestore",
        "zrem",
        "zremrangebylex",
        "zremrangebyrank",
        "zremrangebyscore",
        "zunionstore",
    ),
    "t": (
        "xadd",
        "xdel",
        "xgroup-create",
        "xgroup-createconsumer",
        "xgroup-delconsumer",
        "xgroup-destroy",
        "xgroup-setid",
        "xsetid",
        "xtrim",
    ),
    "d": (
        "json.arrappend",
        "json.arrinsert",
        "json.arrpop",
        "json.arrtrim",
        "json.clear",
        "json.del",
        "json.merge",
        "json.mset",
        "json.numincrby",
        "json.nummultby",
        "json.numpowby",
        "json.set",
        "json.strappend",
        "json.toggle",
    ),
    "x": ("expired",),
    "e": ("evicted",),
    "n": ("new",),
    "m": ("keymiss",),
}
"""Every event that we know, by its class: the letter of the flag that turns it on."""

_CLASS_OF = {event: letter for letter, events in EVENTS_BY_CLASS.items() for event in events}

COMMANDS_PUBLISHED_AS = {
    **dict.fromkeys(("hmset", "hsetnx", "hsetex"), "hset"),
    **dict.fromkeys(("mset", "msetnx", "setex", "psetex", "setnx", "getset", "bitop"), "set"),
    **dict.fromkeys(("incr", "decr", "decrby"), "incrby"),
    **dict.fromkeys(("unlink", "getdel"), "del"),
    **dict.fromkeys(("pexpire", "expireat", "pexpireat"), "expire"),
    **dict.fromkeys(("lpushx", "rpushx"), "lpush or rpush"),
    **dict.fromkeys(("lmove", "blmove", "rpoplpush", "brpoplpush"), "lpop, rpop, lpush, rpush"),
    **dict.fromkeys(("blpop", "brpop", "lmpop", "blmpop"), "lpop or rpop"),
    "bitfield": "setbit",
    "copy": "copy_to",
    "geoadd": "zadd",
    "hgetdel": "hdel",
    "move": "move_from, move_to",
    "pfmerge": "pfadd",
    "rename": "rename_from, rename_to",
    "renamenx": "rename_from, rename_to",
    "smove": "srem, sadd",
    "sort": "sortstore",
    "zincrby": "zincr",
}
"""Commands that publish an event of another name: what users write → what they mean."""

_LEAVES_THE_VALUE = {"hexpire", "hpersist"}
KEY_GETS_A_VALUE = ("copy_to", "move_to", "rename_to", "restore")

EVERY_WRITE = "*"
"""The entry in a route's ``events`` that stands for `WRITE_EVENTS`."""

ABSENCE = "absence"
"""The entry that stands for `ABSENCE_EVENTS`: a key that was removed, or has expired, is gone."""

CHANGES = "changes"
"""The entry that stands for `CHANGE_EVENTS`, and for what newer servers will publish."""

WRITE_EVENTS: tuple[str, ...] = tuple(
    event
    for letter in "$lshztd"
    for event in EVENTS_BY_CLASS[letter]
    if event not in _LEAVES_THE_VALUE and not event.startswith("xgroup-")
) + tuple(KEY_GETS_A_VALUE)
"""What ``"*"`` means: every event after which a key of any type may hold another value.

That is all of the strings, lists, sets, hashes, sorted sets, streams and JSON documents, and a key that was
copied, moved, renamed or restored to its name. Not: times to live (``expire``, ``persist``, ``hexpire``,
``hpersist``), a stream's group bookkeeping (``xgroup-…``), and what removes a key (``del``, ``expired``,
``evicted``, ``rename_from``, ``move_from``): a route that wants those lists them by name.
"""

EVICTED = "evicted"
"""What the cache forgets, the store keeps: no other entry stands for this one."""

ABSENCE_EVENTS = ("del", "expired", "move_from", "rename_from")
"""What ``"absence"`` means: every kind of removal except `EVICTED`."""

EVENTS_OF_ABSENCE = frozenset({*ABSENCE_EVENTS, EVICTED})
"""Events after which a key is gone."""

CHANGE_EVENTS = (*WRITE_EVENTS, "xgroup-create", *ABSENCE_EVENTS)
"""What ``"changes"`` means: ``"*"``, ``"absence"``, and a stream that is created together with its first group."""

GROUPS: dict[str, tuple[str, ...]] = {
    EVERY_WRITE: WRITE_EVENTS,
    ABSENCE: ABSENCE_EVENTS,
    CHANGES: CHANGE_EVENTS,
}
"""Entries in a route's ``events`` that stand for several."""

REPAIR = "repair"
"""Stands for the event of a key that a scan, an audit or a redrive found: no event was heard."""

REPAIR_GONE = "repair_gone"
"""The same for a key that a destination holds and the server does not."""

NAMED = "named"
"""Stands for the event of a key that an entry of a stream names without saying what happened to it."""

ENTRY = "entry"
"""The event of an entry of a stream that carries its record."""

IGNORED = frozenset({"overwritten", "type_changed"})
"""What Redis 8 publishes beside the event of the change itself."""

SAME_NAME = {event: event for event in (*_CLASS_OF, REPAIR, REPAIR_GONE, NAMED, ENTRY)}
"""The one shared copy of an event's name; every decoded message brings another copy."""

FLAGS_IN_A = frozenset("g$lshzxetd")
"""The classes that the flag ``A`` stands for; ``m`` and ``n`` are not among them."""


def class_of(event: str) -> str | None:
    """Return the letter of an event's class, None for a name that no server publishes.

    Modules name their own events: whatever contains a dot is taken for one of theirs.
    """
    return _CLASS_OF.get(event) or ("d" if "." in event.strip(".") else None)


def is_news(event: str) -> bool:
    """Tell whether this is an unknown event, and a change of a key that we could read.

    Future servers have new commands. The types of modules, whose events contain a dot, have no body, except JSON.
    """
    return event not in SAME_NAME and event not in IGNORED and ("." not in event or event.startswith("json."))


def close_events(name: str) -> list[str]:
    """Return known events with a similar name, the most similar first."""
    return difflib.get_close_matches(name.lower(), [*_CLASS_OF, ABSENCE, CHANGES], n=3, cutoff=0.6)


def expand_events(events: Iterable[str]) -> tuple[str, ...]:
    """Return these events with the names of groups written out, each once, in order."""
    names: dict[str, None] = {}
    for event in events:
        names.update(dict.fromkeys(GROUPS.get(event, (event,))))
    return tuple(names)


_FLAGS_BESIDE_THE_CLASS = {"hexpired": "x"}
"""Valkey 9 publishes an expired field only if both flags are set."""


def notification_flags(events: Iterable[str]) -> str:
    """Return the fewest flags that make every server publish these events by key: ``K`` and their classes."""
    letters: set[str] = set()
    for event in expand_events(events):
        letter = class_of(event)
        assert letter, f"routes are checked before: {event!r}"
        letters.update(letter, _FLAGS_BESIDE_THE_CLASS.get(event, ""))
    return "K" + "".join(sorted(letters))


def merge_flags(current: str, needed: str) -> str:
    """Return the server's flags with those that we need added, and none removed.

    Others rely on what is set, so all of it stays, including flags that we do not know. The result is ``current``
    itself if nothing is missing.
    """
    have = set(current)
    if "A" in have:
        have |= FLAGS_IN_A
    return current + "".join(flag for flag in dict.fromkeys(needed) if flag not in have)
