"""One scan for what was missed, as questions to the node: who asks them does not have to wait for the answers.

Slots that a node has gained are few of many mostly, and a cluster's node can list a slot's keys: then nothing else is
looked at.

A key that was accessed last before the gap began did not change in it, so it is passed over: the server tells by
``OBJECT IDLETIME``, where that can be believed (`engine.capture.watch.trust`).
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from itertools import accumulate
from typing import Any, TypeVar

import hiredis

from engine.capture.feed.missed import is_among
from engine.capture.feed.subscription import Subscription
from engine.capture.watch.sight import unix_ms_of
from engine.capture.watch.trust import CONTAINERS, idle_limit_s, may_be_newer
from engine.clock import monotonic_ms
from engine.errors import RedisError
from engine.model import Missed
from engine.redis.address import parse_url
from engine.redis.connection import pack
from engine.redis.errors import refusal
from engine.routing.nodes import slots_in

SCAN_COUNT = 500
"""Keys that one SCAN looks at: about half a millisecond of the server's one thread."""

SLOTS_AT_ONCE = 64
"""Slots whose keys one step counts; it lists those of as many as hold about what a SCAN looks at, of one at least."""
SLOT_KEYS_MAX = 5_000
"""Where a slot holds more, a list of its keys would hold up the server: then everything is scanned."""
_MARGIN = 100
"""Keys that may be new in a slot since they were counted; of more there are events."""

_Told = TypeVar("_Told")
Questions = Generator[tuple[bytes, int], list[Any], _Told]
"""Packed commands and how many replies there will be, the replies, and what they add up to."""

_OF_ONE_KEY = ("ERR no such key", "MOVED ", "ASK ", "TRYAGAIN ")
"""Refusals that say something of a key: it went, or its slot moves to another node."""


class Scan:
    """Of one feed, from the beginning to the end. A connection that is lost has lost the place in it."""

    def __init__(self, subscription: Subscription, missed: Missed, *, is_narrowed: bool, stamps_strings: bool) -> None:
        self.missed = missed
        self.is_over = False
        self.looked_at = self.size = 0
        """How many keys of how many were looked at, about."""
        self.subscription = subscription
        self._databases = subscription.databases
        self._pattern = subscription.feed.patterns[0].removeprefix(self._databases.heads()[0])
        self._left = list(self._databases.numbers)
        """Those that are not scanned to their end; the first is under way."""
        self._is_among = is_among(missed)
        self._is_narrowed, self._stamps_strings = is_narrowed, stamps_strings
        self._cursor = b"0"
        self._slots: list[int] = []
        """Those that are still to be listed; none where everything is scanned."""

    def begin(self) -> Questions[list[bytes]]:
        """See how large the node is; return the empty keys, which no class of last bytes matches, that are there."""
        found: list[bytes] = []
        for number in self._databases.numbers:
            size, has_empty = yield from self._in(number, pack("DBSIZE") + pack("EXISTS", b""), 2)
            self.size += size if isinstance(size, int) else 0
            if has_empty == 1 and self._is_wanted(b""):
                found.append(self._databases.inside(number, b""))
        slots = list(slots_in(self.missed.slots)) if self.subscription.feed.node.id else []
        if slots and self.size // SCAN_COUNT > len(slots) // SLOTS_AT_ONCE:
            self._slots = slots
        return found

    def _in(self, number: int, commands: bytes, count: int) -> Questions[list[Any]]:
        """Ask in a database; where there is one alone, the connection is there."""
        if not self._databases.are_several:
            return (yield commands, count)
        selected, *replies = yield pack("SELECT", number) + commands, count + 1
        if isinstance(selected, hiredis.ReplyError):
            raise self._refusal(selected)
        return replies

    def _refusal(self, reply: object) -> RedisError:
        return refusal(parse_url(self.subscription.redis.url), "scan for a repair", str(reply))

    def step(self) -> Questions[list[bytes]]:
        """Look at some keys; return those that may have changed unheard. Raises `RedisError` for a refusal."""
        if self._slots:
            keys = yield from self._of_slots()
            self.is_over = keys is not None and not self._slots
            return keys or []
        number, question = self._left[0], pack("SCAN", self._cursor, "MATCH", self._pattern, "COUNT", SCAN_COUNT)
        # Where a scan of a database goes on, the connection has been in it since its beginning.
        (reply,) = (yield from self._in(number, question, 1)) if self._cursor == b"0" else (yield question, 1)
        if isinstance(reply, hiredis.ReplyError):
            raise self._refusal(reply)
        self._cursor, keys = reply
        self.looked_at += SCAN_COUNT
        newer = yield from self._newer([key for key in keys if self._is_wanted(key)])
        if self._cursor == b"0":
            self._left.pop(0)
        self.is_over = not self._left
        return [self._databases.inside(number, key) for key in newer] if self._databases.are_several else newer

    def _of_slots(self) -> Questions[list[bytes] | None]:
        """Return the keys of the next slots; None if the node does not list them, and is scanned instead."""
        asked, self._slots = self._slots[:SLOTS_AT_ONCE], self._slots[SLOTS_AT_ONCE:]
        counts = yield _cluster(*(("COUNTKEYSINSLOT", slot) for slot in asked)), len(asked)
        if not all(isinstance(count, int) and count <= SLOT_KEYS_MAX for count in counts):
            self._slots = []
            return None
        taken = next((place for place, sum_ in enumerate(accumulate(counts), 1) if sum_ >= SCAN_COUNT), len(asked))
        self._slots[:0] = asked[taken:]
        self.looked_at += sum(counts[:taken])
        filled = [(slot, count) for slot, count in zip(asked[:taken], counts, strict=False) if count]
        if not filled:
            return []
        lists = yield _cluster(*(("GETKEYSINSLOT", slot, count + _MARGIN) for slot, count in filled)), len(filled)
        if any(isinstance(keys, hiredis.ReplyError) for keys in lists):
            self._slots = []
            return None
        return [key for keys in lists for key in keys if self._is_wanted(key)]

    def _is_wanted(self, key: bytes) -> bool:
        """Tell whether a key is the feed's: in a cluster, a node also has keys of slots that are not its own yet."""
        return self.subscription.feed.owns(key) and self._is_among(key)

    def _newer(self, keys: list[bytes]) -> Questions[list[bytes]]:
        """Return the keys that may have changed in the gap: all of them, unless their idle times speak against it."""
        if not self._is_narrowed or not keys:
            return keys
        questions = [pack("OBJECT", "IDLETIME", key) for key in keys]
        # The time is asked after them: a step may have taken long, and idle times grow with it.
        *idle_s, time = yield b"".join(questions) + pack("TIME"), len(keys) + 1
        refused = any(
            isinstance(reply, hiredis.ReplyError) and not str(reply).startswith(_OF_ONE_KEY) for reply in idle_s
        )
        if refused or not isinstance(time, list):
            self._is_narrowed = False
            return keys
        limit_s = idle_limit_s(self.missed, unix_ms_of(time), monotonic_ms())
        newer = [key for key, idle in zip(keys, idle_s, strict=True) if may_be_newer(idle, limit_s)]
        if self._stamps_strings or len(newer) == len(keys):
            return newer
        strings = yield from self._strings(set(keys).difference(newer))
        return newer + strings

    def _strings(self, keys: Collection[bytes]) -> Questions[list[bytes]]:
        """Return those among the keys whose idle time may be another's, or date from before they were written."""
        replies = yield b"".join(pack("OBJECT", "ENCODING", key) for key in keys), len(keys)
        return [key for key, encoding in zip(keys, replies, strict=True) if encoding not in CONTAINERS]


def _cluster(*commands: tuple[str | int, ...]) -> bytes:
    return b"".join(pack("CLUSTER", *command) for command in commands)
