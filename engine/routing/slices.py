"""The slice of a host: a fixed part of all keys, by their last byte. K hosts cover everything exactly once.  (pure)

Hosts agree without asking each other, so the cut uses no sample: digits and letters, which most keys end in, are dealt
out in turn, and the other bytes in runs. A and a count as one letter, so that hexadecimal endings of either kind are
dealt out evenly too. The server walks a pattern's bytes from their start: those of a slice are few.
"""

from __future__ import annotations

import re

import msgspec

SLICES_MAX = 32
"""Every slice gets at least one of the 36 letters and digits."""

ORDINAL = "ordinal"
FORMS = "as in 0/3, the first of three, or ordinal/3 where the host name ends in the number"

_FORM = re.compile(rf"([0-9]{{1,6}}|{ORDINAL})/([0-9]{{1,6}})")
_ORDINAL_OF = re.compile(r"(?:.*[^0-9])?([0-9]{1,6})")
_TURNS = {byte: turn for turn, byte in enumerate(b"0123456789abcdefghijklmnopqrstuvwxyz")} | {
    byte: turn for turn, byte in enumerate(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", 10)
}
_PLACES = {byte: place for place, byte in enumerate(byte for byte in range(256) if byte not in _TURNS)}
"""Of the bytes that are neither letters nor digits."""


def _slice_of(byte: int, count: int) -> int:
    turn = _TURNS.get(byte)
    return turn % count if turn is not None else _PLACES[byte] * count // len(_PLACES)


class BadSlice(ValueError):
    """A text that is not a valid slice; the message says why."""


class Slice(msgspec.Struct, frozen=True):
    """Part ``index`` of ``count``, from 0."""

    index: int = 0
    count: int = 1

    @property
    def is_whole(self) -> bool:
        """Tell whether it is all of the keyspace."""
        return self.count == 1

    @property
    def last_bytes(self) -> bytes:
        """Return the last bytes of its keys."""
        return bytes(byte for byte in ALL_BYTES if _slice_of(byte, self.count) == self.index)

    @property
    def takes_empty_key(self) -> bool:
        """Tell whether the key without a last byte belongs to it."""
        return self.index == 0

    def owns(self, key: bytes) -> bool:
        """Tell whether the key belongs to this slice."""
        return _slice_of(key[-1], self.count) == self.index if key else self.takes_empty_key

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


WHOLE = Slice()
ALL_BYTES = bytes(range(256))


def shards_max(count: int) -> int:
    """Return into how many shards each of this many slices can be cut: each shard needs a byte of its own."""
    return min(len(Slice(index, count).last_bytes) for index in range(count))


def parse_slice(text: str, host_name: str = "") -> Slice:
    """Return what ``I/K`` names, or ``ordinal/K`` on this host; raise `BadSlice`."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise BadSlice("is not a valid slice")
    count = int(match[2])
    if not 1 <= count <= SLICES_MAX:
        raise BadSlice(f"asks for {count} slices: from 1 to {SLICES_MAX} are allowed")
    if match[1] == ORDINAL:
        # A pod of a StatefulSet has such a name, with or without its domain.
        ordinal = _ORDINAL_OF.fullmatch(host_name.partition(".")[0])
        if ordinal is None:
            raise BadSlice("takes its number from the host name, which ends in none")
        index = int(ordinal[1])
    else:
        index = int(match[1])
    if index >= count:
        raise BadSlice(f"is number {index}, and {count} slices are numbered from 0 to {count - 1}")
    return Slice(index, count)


def scope_of(server: str, part: Slice) -> str:
    """Return the scope of a checkpoint: a server, and the part of its keys."""
    return server if part.is_whole else f"{server} slice {part}"


def server_of(scope: str) -> str:
    """Return the server of a scope."""
    return scope.partition(" ")[0]
