"""Values of every type and size class: `VALUES`."""

from __future__ import annotations

from dataclasses import dataclass

from tests.commands.case import Case, Words

FULL = 600
"""Members past which no server keeps a value in its compact encoding."""
LONG = b"l" * 70
"""Longer than a member of a compact encoding may be."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value: the command that makes it of ``@a``, one that changes it, and the encodings that servers may give it."""

    name: str
    make: Words
    change: Words
    encodings: tuple[str, ...]

    def cases(self) -> tuple[Case, ...]:
        """Return what befalls such a value: it is made, changed, copied and renamed, and deleted."""
        return (
            Case("value", (), (self.make,)),
            Case("value", (self.make,), (self.change,)),
            Case("value", (self.make,), ((b"COPY", b"@a", b"@b"), (b"RENAME", b"@a", b"@c"))),
            Case("value", (self.make,), ((b"DEL", b"@a"),)),
        )


def _many(command: bytes, *parts: bytes, count: int) -> Words:
    """Return a command with these parts, in which ``%`` is a number, ``count`` times over."""
    numbered = (part.replace(b"%", b"%d" % number) for number in range(count) for part in parts)
    return (command, b"@a", *numbered)


def _set(value: bytes, change: tuple[bytes, ...], name: str, encoding: str) -> Value:
    return Value(f"string: {name}", (b"SET", b"@a", value), (change[0], b"@a", *change[1:]), (encoding,))


_COMPACT = ("listpack", "ziplist", "quicklist")
_INCR, _APPEND = (b"INCR",), (b"APPEND", b"x")

VALUES: tuple[Value, ...] = (
    _set(b"7", _INCR, "a small integer", "int"),
    _set(b"0", (b"SET", b"1"), "an integer that servers may share", "int"),
    _set(b"9999", _INCR, "the last integer that servers may share", "int"),
    _set(b"10000", (b"DECR",), "the first that they do not", "int"),
    _set(b"-1", (b"INCRBY", b"-5"), "a negative integer", "int"),
    _set(b"9223372036854775806", _INCR, "a long integer", "int"),
    _set(b"9223372036854775808", _APPEND, "longer than any integer", "embstr"),
    _set(b"", _APPEND, "empty", "embstr"),
    _set(b"e" * 30, _APPEND, "embedded", "embstr"),
    _set(b"r" * 200, (b"SETRANGE", b"3", b"x"), "raw", "raw"),
    _set(b"b" * 20_000, _APPEND, "large", "raw"),
    _set(bytes(range(256)), _APPEND, "every byte", "raw"),
    Value("hash: compact", _many(b"HSET", b"f%", b"v%", count=3), (b"HINCRBY", b"@a", b"n", b"1"), _COMPACT),
    Value("hash: by count", _many(b"HSET", b"f%", b"v%", count=FULL), (b"HDEL", b"@a", b"f7"), ("hashtable",)),
    Value("hash: by length", (b"HSET", b"@a", b"f", LONG), (b"HSET", b"@a", b"f", b"short"), ("hashtable",)),
    Value("list: compact", _many(b"RPUSH", b"v%", count=3), (b"LPOP", b"@a"), _COMPACT),
    Value("list: full", _many(b"RPUSH", b"v%" * 30, count=FULL), (b"LSET", b"@a", b"7", b"x"), ("quicklist",)),
    Value("set: integers", _many(b"SADD", b"%", count=9), (b"SADD", b"@a", b"word"), ("intset",)),
    Value("set: compact", (b"SADD", b"@a", b"x", b"y"), (b"SREM", b"@a", b"x"), ("listpack", "hashtable")),
    Value("set: full", _many(b"SADD", b"m%", count=FULL), (b"SPOP", b"@a"), ("hashtable",)),
    Value("set: by length", (b"SADD", b"@a", LONG), (b"SADD", b"@a", b"x"), ("hashtable",)),
    Value("zset: compact", _many(b"ZADD", b"%", b"m%", count=3), (b"ZINCRBY", b"@a", b"0.5", b"m1"), _COMPACT),
    Value("zset: full", _many(b"ZADD", b"%", b"m%", count=FULL), (b"ZREM", b"@a", b"m7"), ("skiplist", "btree")),
    Value("zset: by length", (b"ZADD", b"@a", b"1", LONG), (b"ZPOPMIN", b"@a"), ("skiplist", "btree")),
    Value("stream: one node", (b"XADD", b"@a", b"1-1", b"f", b"v"), (b"XADD", b"@a", b"2-1", b"g", b"w"), ("stream",)),
    Value("stream: large", (b"XADD", b"@a", b"1-1", b"f", b"v" * 9_000), (b"XDEL", b"@a", b"1-1"), ("stream",)),
)

VALUE_CASES: tuple[Case, ...] = tuple(case for value in VALUES for case in value.cases())
