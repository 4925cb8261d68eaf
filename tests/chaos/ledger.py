"""What was sent to Redis, and what Redis said to it.  (pure)"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

Argument = bytes | str | int | float
Command = tuple[Argument, ...]

NUMBER_FIELD = b"n"
"""The field that tells one change of the writer's from all others."""

_SOURCE_AND_TARGET = {b"RENAME", b"RENAMENX", b"COPY", b"SMOVE", b"LMOVE", b"RPOPLPUSH"}
_MANY_KEYS = {b"DEL", b"UNLINK", b"TOUCH", b"SUNIONSTORE", b"SINTERSTORE", b"SDIFFSTORE"}
_NO_KEYS = {b"FLUSHALL", b"FLUSHDB", b"SWAPDB", b"EVAL", b"MULTI", b"EXEC"}


class Answer(Enum):
    """What became of a command that was sent."""

    LOST = auto()  # sent, but no answer came: it may or may not have been carried out, also later
    ACKNOWLEDGED = auto()
    REFUSED = auto()


@dataclass(slots=True)
class Sent:
    """One command, in the order of sending."""

    number: int
    words: tuple[bytes, ...]
    answer: Answer = Answer.LOST

    @property
    def name(self) -> bytes:
        """Return the command's name in capitals."""
        return self.words[0].upper()


def word(argument: Argument) -> bytes:
    """Return an argument as Redis is sent it."""
    if isinstance(argument, bytes):
        return argument
    return argument.encode() if isinstance(argument, str) else str(argument).encode()


def keys_of(words: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the keys that a command names, as far as the suite's commands go."""
    name = words[0].upper()
    if name in _NO_KEYS:
        return ()
    if name in _SOURCE_AND_TARGET:
        return tuple(words[1:3])
    if name in _MANY_KEYS:
        return tuple(words[1:])
    if name in {b"MSET", b"MSETNX"}:
        return tuple(words[1::2])
    return tuple(words[1:2])


class Ledger:
    """All commands, and by key which strings a destination may rightly hold."""

    def __init__(self) -> None:
        self.entries: list[Sent] = []
        self._by_key: dict[bytes, list[Sent]] = defaultdict(list)
        self._strings: dict[bytes, set[bytes]] = defaultdict(set)
        self._linked: dict[bytes, set[bytes]] = defaultdict(set)
        self._computed: set[bytes] = set()
        self._is_opaque = False

    def send(self, words: tuple[bytes, ...], keys: Iterable[bytes] = ()) -> Sent:
        """Note a command that is about to be sent; ``keys`` where its name does not tell them."""
        entry = Sent(len(self.entries), words)
        self.entries.append(entry)
        named = tuple(keys) or keys_of(words)
        for key in named:
            self._by_key[key].append(entry)
            self._strings[key].update(words[1:])
        if entry.name in _SOURCE_AND_TARGET:
            self._linked[named[1]].add(named[0])
        self._is_opaque |= entry.name in _NO_KEYS
        return entry

    def computed(self, *keys: bytes) -> None:
        """Note that the server itself makes new strings in these keys (INCR, APPEND): any value may be right."""
        self._computed.update(keys)

    @property
    def acknowledged(self) -> int:
        """Return how many commands were acknowledged."""
        return sum(entry.answer is Answer.ACKNOWLEDGED for entry in self.entries)

    def keys(self) -> set[bytes]:
        """Return all keys that were ever named."""
        return {key for key, history in self._by_key.items() if history}

    def knows(self, key: bytes) -> bool:
        """Tell whether this key was ever named."""
        return bool(self._by_key.get(key))

    def may_hold(self, key: bytes, strings: Iterable[bytes]) -> bool:
        """Tell whether all of these strings were sent for this key, or for one that was moved to it."""
        family = self._family(key)
        if family & self._computed:
            return True
        return all(any(string in self._strings[one] for one in family) for string in strings)

    def lost_by_redis(self, key: bytes, number: bytes | None) -> bool:
        """Tell whether Redis holds neither the last acknowledged change of a key nor one that may have come later.

        ``number`` is the field `NUMBER_FIELD` of what it holds, None where it holds nothing. Only keys that the writer
        alone has changed (``HSET`` with a number, ``DEL``) can be judged; of others it is always False.
        """
        history = self._by_key.get(key, [])
        if self._is_opaque or not all(entry.name in {b"HSET", b"DEL", b"UNLINK"} for entry in history):
            return False
        applied = [entry for entry in history if entry.answer is not Answer.REFUSED]
        last = max((entry.number for entry in applied if entry.answer is Answer.ACKNOWLEDGED), default=-1)
        possible = [entry for entry in applied if entry.number == last or entry.answer is Answer.LOST]
        if not possible or last < 0:
            return False
        return all(_number_of(entry) != number for entry in possible)

    def _family(self, key: bytes) -> set[bytes]:
        family, fresh = set(), {key}
        while fresh:
            one = fresh.pop()
            family.add(one)
            fresh |= self._linked[one] - family
        return family


def _number_of(entry: Sent) -> bytes | None:
    fields = dict(zip(entry.words[2::2], entry.words[3::2], strict=False))
    return fields.get(NUMBER_FIELD) if entry.name == b"HSET" else None
