"""A key that the engine keeps, if a server does not count what removes keys without an event.

A user without ``+info`` sees no count of ``FLUSHALL``, ``SWAPDB`` or ``REPLICAOF``. Then a key of the engine's own is
looked at instead: if it has changed, so has the keyspace. All engines that look at a database share this key, and
whichever finds it gone sets another word.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import hiredis

from engine.capture.own_keys import STAYS, own_key
from engine.redis.connection import pack
from engine.routing.databases import Databases

KEY = own_key("", STAYS).encode()
"""If the server has all slots."""
LIFE_S = 86_400
"""An expiry, so that the key does not stay forever; looks renew it long before."""
RENEWAL_MS = 3_600_000
_HOPELESS = ("NOPERM", "READONLY")


class Keepsake:
    """What a look asks for, and whether it may."""

    def __init__(self, key: bytes = KEY) -> None:
        self._key = key
        self._is_refused = False
        self._renewal_ms = 0

    def questions(self, server_ms: int) -> tuple[bytes, ...]:
        """Return the packed commands, the last of which is answered with the word; none where they were refused."""
        if self._is_refused:
            return ()
        commands = [pack("SET", self._key, uuid.uuid4().hex, "NX", "EX", LIFE_S), pack("GET", self._key)]
        if server_ms >= self._renewal_ms:
            self._renewal_ms = server_ms + RENEWAL_MS
            commands.insert(1, pack("EXPIRE", self._key, LIFE_S))
        return tuple(commands)

    def take(self, replies: Sequence[object]) -> bytes | None:
        """Return the word in the answers; None if there is none, for now or for good."""
        refused = (str(reply) for reply in replies if isinstance(reply, hiredis.ReplyError))
        self._is_refused = any(text.startswith(_HOPELESS) for text in refused)
        word = replies[-1] if replies else None
        return word if isinstance(word, bytes) else None


class Keepsakes:
    """One in each of several databases, over a connection that is at ``home`` before and after."""

    def __init__(self, key: bytes, databases: Databases) -> None:
        self._home = databases.home
        self._by_database = {number: Keepsake(key) for number in databases.numbers}
        self._asked: list[tuple[Keepsake, int]] = []

    def questions(self, server_ms: int) -> tuple[bytes, ...]:
        """Return the packed commands; none where all were refused."""
        commands: list[bytes] = []
        self._asked = []
        for number, keepsake in self._by_database.items():
            questions = keepsake.questions(server_ms)
            if questions:
                self._asked.append((keepsake, len(questions)))
                commands += [pack("SELECT", number), *questions]
        return (*commands, pack("SELECT", self._home)) if commands else ()

    def take(self, replies: Sequence[object]) -> bytes | None:
        """Return the words of all databases in the answers; None if one is missing."""
        words: list[bytes | None] = []
        at = 0
        for keepsake, count in self._asked:
            words.append(keepsake.take(replies[at + 1 : at + 1 + count]))
            at += 1 + count
        return None if not words or None in words else b" ".join(word for word in words if word)
