"""Several databases of one server: how their channels are subscribed to, and how their keys are told apart.  (pure)

With one database a key is known by its name. With several it is known by what its channel has after ``__keyspace@``:
``3__:name``. The number has only digits, so the first ``__:`` ends it, whatever the name holds. That is the key
everywhere inside the engine: in rings, lanes, the backlog and marks. It is taken apart at the edges: where the server
is asked, and where records, letters and items are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec
from msgspec.structs import replace

from engine.config import RedisSettings, RouteSettings
from engine.routing.byte_classes import byte_class, channel_prefix

DATABASES_MAX = 256
"""More would need too many patterns: each costs the server time with every event."""
ALL = "*"
"""As a setting: every database that the server has."""

_BEFORE, _AFTER = b"__keyspace@", b"__:"


def inside(database: int, name: bytes) -> bytes:
    """Return the internal name of a key of a database, if there are several."""
    return b"%d__:%b" % (database, name)


def split(key: bytes) -> tuple[int, bytes]:
    """Return the database and the name of a key, if there are several."""
    number, _, name = key.partition(_AFTER)
    return int(number), name


def named(only: int | None, key: bytes) -> tuple[int, bytes]:
    """Return the database and the name of a key; ``only`` is the one database, None if there are several."""
    return split(key) if only is None else (only, key)


class Databases(msgspec.Struct, frozen=True):
    """Those that are captured, in order. ``home`` is the one in the URL, where the engine keeps its own keys."""

    numbers: tuple[int, ...] = (0,)
    home: int = 0

    @classmethod
    def one(cls, number: int) -> Databases:
        """Return one database."""
        return cls((number,), number)

    @property
    def are_several(self) -> bool:
        """Tell whether keys are known with their database."""
        return len(self.numbers) > 1

    @property
    def only(self) -> int | None:
        """Return the one database; None if there are several."""
        return None if self.are_several else self.numbers[0]

    @property
    def prefix(self) -> bytes:
        """Return what every channel begins with, before a key's internal name."""
        return _BEFORE if self.are_several else channel_prefix(self.numbers[0])

    def heads(self) -> tuple[bytes, ...]:
        """Return globs that match the part before the name in the channels of these databases, and in no others.

        They are as few as digit classes allow, and disjoint. Each is anchored at the channel's beginning: a name that
        holds ``__:`` or ``@3__:`` changes nothing.
        """
        if not self.are_several:
            return (self.prefix,)
        last_digits: dict[bytes, bytes] = {}
        for number in self.numbers:
            digits = b"%d" % number
            last_digits[digits[:-1]] = last_digits.get(digits[:-1], b"") + digits[-1:]
        return tuple(_BEFORE + tens + _digit_class(last) + _AFTER for tens, last in last_digits.items())

    def inside(self, database: int, name: bytes) -> bytes:
        """Return this key's internal name."""
        return inside(database, name) if self.are_several else name

    def at_home(self, name: bytes) -> bytes:
        """Return the internal name of a key in the home database."""
        return self.inside(self.home, name)

    def split(self, key: bytes) -> tuple[int, bytes]:
        """Return the database and the name behind a key's internal name."""
        return named(self.only, key)

    def in_scope(self) -> str:
        """Return how the scope of a checkpoint names them; the name is the same for any set of several."""
        return ALL if self.are_several else str(self.numbers[0])

    def in_words(self) -> str:
        """Return the numbers for people."""
        return in_words(self.numbers)


FIRST = Databases()
"""The first database alone."""


def in_words(numbers: Sequence[int]) -> str:
    """Return numbers for people: runs of them, and single ones."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run) for run in runs)
    return ", ".join(chain.from_iterable(words))


def _digit_class(digits: bytes) -> bytes:
    return digits if len(digits) == 1 else b"[" + byte_class(digits) + b"]"


def databases_of(redis: RedisSettings, home: int) -> Databases:
    """Return the databases of settings that name them by number, or name none: then it is ``home``, the URL's."""
    numbers = redis.databases
    assert numbers != ALL, "databases are asked for before"
    return Databases(tuple(numbers), home) if len(numbers) > 1 else Databases.one(home)  # type: ignore[arg-type]


def route_inside(route: RouteSettings, databases: Databases) -> RouteSettings:
    """Return the route with globs that match internal names of keys, one for each of its ``databases``.

    With a single database it no longer names any.
    """
    if not databases.are_several:
        return replace(route, databases=()) if route.databases else route
    wanted = tuple(sorted(route.databases)) or databases.numbers
    return replace(route, keys=keys_inside(route.keys, wanted), databases=wanted)


def keys_shown(route: RouteSettings) -> tuple[str, ...]:
    """Return a route's globs for people, as they wrote them, without a database."""
    if not route.databases:
        return route.keys
    return tuple(dict.fromkeys(glob.partition(_AFTER.decode())[2] for glob in route.keys))


def keys_inside(globs: Iterable[str], databases: Sequence[int]) -> tuple[str, ...]:
    """Return globs of a single database as they are among several; they are those that it was captured with before."""
    return tuple(inside(number, b"").decode() + glob for glob in globs for number in databases)


def keys_of(globs: Iterable[str], database: int) -> tuple[str, ...]:
    """Return one database's globs, from those of several, as they are if it is the only one."""
    prefix = inside(database, b"").decode()
    return tuple(glob.removeprefix(prefix) for glob in globs if glob.startswith(prefix))
