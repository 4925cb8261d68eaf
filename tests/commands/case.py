"""A write command at work: what is there before, what is done, which routes must end equal, on which servers."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass

EVERYWHERE = ("valkey-9.1", "redis-8.2", "redis-7.0", "redis-6.2")
SINCE_7 = ("valkey-9.1", "redis-8.2", "redis-7.0")
WITH_FIELD_EXPIRY = ("valkey-9.1", "redis-8.2")
VALKEY, REDIS_8 = ("valkey-9.1",), ("redis-8.2",)

Word = bytes
Words = tuple[Word, ...]

_KEY = re.compile(rb"@[a-z]\w*")
BYTES = {
    b"~int": b"7",
    b"~long": b"12345678901234",
    b"~embstr": b"e" * 30,
    b"~raw": b"r" * 200,
    b"~bin": b"\xff\x00\xfe",
    b"~empty": b"",
}
"""Words that stand for values."""
DUMP = b"~dump:"
"""``~dump:@a`` is what ``DUMP @a`` answers."""
OTHER_PORT = b"~port"
"""The port of another server, for ``MIGRATE``."""
IN_DATABASE_1 = b"DB1"
"""The first word of a command that is run in database 1."""
BLOCKED = b"BLOCKED"
"""The first word of a command that blocks until the next one has run."""

FOLLOWING = ("changes", "expired", "hexpired", "evicted")
"""Routes that list a way to go: they end equal to the server."""
VALUES_ONLY = "values"
"""The route that takes ``"*"``: equal for every key that is there."""
ROUTES = (*FOLLOWING, VALUES_ONLY)


@dataclass(frozen=True, slots=True)
class Case:
    """One command of the table.

    ``command`` is its name as ``COMMAND`` has it (``xgroup|create``); keys in ``setup`` and ``steps`` begin with ``@``.
    """

    command: str
    setup: tuple[Words, ...]
    steps: tuple[Words, ...]
    servers: tuple[str, ...] = EVERYWHERE
    routes: tuple[str, ...] = ROUTES

    @property
    def name(self) -> str:
        """Return the steps in words."""
        return " | ".join(b" ".join(words).decode("ascii", "backslashreplace")[:60] for words in self.steps)

    def keys(self) -> frozenset[Word]:
        """Return the keys that the steps name."""
        return frozenset(key for words in self.steps for word in words for key in _KEY.findall(word))

    def placed(self, prefix: bytes) -> Case:
        """Return the case with this before each of its keys."""

        def place(commands: tuple[Words, ...]) -> tuple[Words, ...]:
            return tuple(tuple(_KEY.sub(lambda key: prefix + key[0][1:], word) for word in words) for words in commands)

        return Case(self.command, place(self.setup), place(self.steps), self.servers, self.routes)


def parse(text: str, servers: tuple[str, ...] = EVERYWHERE, routes: tuple[str, ...] = ROUTES) -> Iterator[Case]:
    """Read cases, one a line: ``command: setup | setup >> step | step``; without ``>>`` there is no setup."""
    for line in filter(None, map(str.strip, text.splitlines())):
        command, _, rest = line.partition(": ")
        before, arrow, after = rest.partition(">>")
        if not arrow:
            before, after = "", before
        yield Case(command, _commands(before), _commands(after), servers, routes)


def _commands(text: str) -> tuple[Words, ...]:
    parts = filter(None, (part.split() for part in text.split("|")))
    return tuple(tuple(BYTES.get(word.encode(), word.encode()) for word in words) for words in parts)


def cases_for(cases: tuple[Case, ...], server: str, known: Container[str]) -> Iterator[Case]:
    """Yield the cases that a server has: those for its version, or for any where we do not know it, by its commands."""
    for case in cases:
        if server in case.servers or (server not in EVERYWHERE and case.command.partition("|")[0] in known):
            yield case
