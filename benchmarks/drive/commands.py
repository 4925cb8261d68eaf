"""Commands as bytes. A value carries its change's number and when that was due.  (pure)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

PREFIX = "bench:"
"""What all keys of the benchmarks begin with."""
STREAM = f"{PREFIX}changes"
KEY_DIGITS = 9
"""Of a key's number in its name: all names are of one length."""
NUMBER_FIELD, DUE_FIELD = "n", "d"
NUMBER_DIGITS, DUE_DIGITS = 12, 19
VALUE_BYTES_MAX = 1_000_000

STRINGS_FROM = 900_000_000
"""The numbers of keys that hold strings: HSET is refused on those."""

Kind = Literal["hset", "string", "delete", "expire"]


class Mix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is sent, by weight, and how large values are.

    ``hset`` sets a hash of ``fields`` fields that hold ``value_bytes`` together, with an entry in `STREAM` that names
    it where there are ``entries`` (by the function of config/streams); ``string`` a SET of the same content,
    on keys of its own; ``delete`` a DEL and ``expire`` an EXPIRE of ten minutes, on the hashes.
    """

    hset: float = 1.0
    string: float = 0.0
    delete: float = 0.0
    expire: float = 0.0
    fields: int = 2
    value_bytes: int = 31
    entries: bool = False


class BadMix(ValueError):
    """A mix that can't be; the message says why."""


def check(mix: Mix) -> None:
    """Raise `BadMix` where it can't be."""
    least = NUMBER_DIGITS + DUE_DIGITS
    if mix.fields < 2:
        raise BadMix("fields: 2 or more are allowed: the number of the change, and when it was due")
    if mix.fields == 2 and mix.value_bytes != least:
        raise BadMix(f"value_bytes: two fields hold {least} bytes; more of them hold more")
    if not least + mix.fields - 2 <= mix.value_bytes <= VALUE_BYTES_MAX:
        raise BadMix(f"value_bytes: from {least + mix.fields - 2} to {VALUE_BYTES_MAX:,} is allowed with these fields")
    if min(mix.hset, mix.string, mix.delete, mix.expire) < 0 or weights(mix)[1] == [0.0] * 4:
        raise BadMix("hset, string, delete, expire: weights of 0 or more, and not all 0, are allowed")


def weights(mix: Mix) -> tuple[list[Kind], list[float]]:
    """Return the kinds and their weights."""
    return ["hset", "string", "delete", "expire"], [mix.hset, mix.string, mix.delete, mix.expire]


def key_name(number: int) -> bytes:
    """Return a key's name."""
    return b"%s%0*d" % (PREFIX.encode(), KEY_DIGITS, number)


def key_number(name: str) -> int:
    """Return the number in a key's name."""
    return int(name[len(PREFIX) :])


class Template(NamedTuple):
    """``text % (key's number, change's number, when it was due)[:arity]`` is the command."""

    text: bytes
    arity: int


def templates(mix: Mix) -> dict[Kind, Template]:
    """Return what makes each kind of command."""
    check(mix)
    filler = _filler(mix)
    content = [NUMBER_FIELD.encode(), b"%%0%dd" % NUMBER_DIGITS, DUE_FIELD.encode(), b"%%0%dd" % DUE_DIGITS, *filler]
    key = PREFIX.encode() + b"%%0%dd" % KEY_DIGITS
    text = b"|".join((b"%%0%dd" % NUMBER_DIGITS, b"%%0%dd" % DUE_DIGITS, *filler[1::2]))
    return {
        "hset": Template(_packed([*_hset(key, mix), *content]), 3),
        "string": Template(_packed([b"SET", key, text]), 3),
        "delete": Template(_packed([b"DEL", key]), 1),
        "expire": Template(_packed([b"EXPIRE", key, b"600"]), 1),
    }


def _hset(key: bytes, mix: Mix) -> list[bytes]:
    return [b"FCALL", b"ingest_write", b"2", key, STREAM.encode(), b"HSET"] if mix.entries else [b"HSET", key]


def _filler(mix: Mix) -> list[bytes]:
    rest, count = mix.value_bytes - NUMBER_DIGITS - DUE_DIGITS, mix.fields - 2
    sizes = [rest // count + (place < rest % count) for place in range(count)]
    return [part for place, size in enumerate(sizes) for part in (b"f%d" % place, b"x" * size)]


def _packed(words: Sequence[bytes]) -> bytes:
    """Return the command in RESP, where a word's directives stand for as many digits as they say."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (_length(word), word) for word in words)


def _length(word: bytes) -> int:
    for digits in (KEY_DIGITS, NUMBER_DIGITS, DUE_DIGITS):
        directive = b"%%0%dd" % digits
        if directive in word:
            return _length(word.replace(directive, b"0" * digits))
    return len(word)
