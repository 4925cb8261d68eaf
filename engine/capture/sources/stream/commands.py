"""Commands on streams and their groups, packed.  (pure)"""

from __future__ import annotations

from collections.abc import Sequence

from engine.redis.connection import pack

ACKS_AT_ONCE = 1_000
"""Entries that one command acknowledges."""


def look(stream: bytes) -> bytes:
    """Return the question for the state of a stream and its groups."""
    return pack("XINFO", "STREAM", stream, "FULL", "COUNT", 1)


def create(stream: bytes, group: str, at: bytes) -> bytes:
    """Return what creates a group, and the stream if there is none."""
    return pack("XGROUP", "CREATE", stream, group, at, "MKSTREAM")


def set_back(stream: bytes, group: str) -> bytes:
    """Return what has a group read all of its stream again."""
    return pack("XGROUP", "SETID", stream, group, "0")


def count(stream: bytes, group: str, at: bytes, read: int) -> bytes:
    """Return what tells the server how many entries a group has passed, without moving it (Redis 7)."""
    return pack("XGROUP", "SETID", stream, group, at, "ENTRIESREAD", read)


def acknowledge(stream: bytes, group: str, ids: Sequence[bytes]) -> bytes:
    """Return what acknowledges these entries."""
    return pack("XACK", stream, group, *ids)


def delete(stream: bytes, ids: Sequence[bytes]) -> bytes:
    """Return what deletes these entries."""
    return pack("XDEL", stream, *ids)


def trim(stream: bytes, before: bytes) -> bytes:
    """Return what removes entries that are older than this one, as far as that is cheap."""
    return pack("XTRIM", stream, "MINID", "~", before)


def claim(stream: bytes, group: str, consumer: str, idle_ms: int, start: bytes, count: int) -> bytes:
    """Return what takes over entries that a consumer has left pending for this long."""
    return pack("XAUTOCLAIM", stream, group, consumer, idle_ms, start, "COUNT", count)


def read(group: str, consumer: str, count: int, block_ms: int, places: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return what reads streams, each from its place: an id for pending entries, ``>`` for new ones; 0: no block."""
    block = ("BLOCK", block_ms) if block_ms else ()
    names, ids = zip(*places, strict=True)
    return pack("XREADGROUP", "GROUP", group, consumer, "COUNT", count, *block, "STREAMS", *names, *ids)
