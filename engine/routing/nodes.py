"""The nodes of a server and which keys each of them has: one node without cluster mode, the primaries of a cluster.

A key's *slot* is the CRC16 (XMODEM) of the key, or of its hash tag, modulo 16,384
(https://valkey.io/topics/cluster-spec/).  (pure)
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable, Sequence

import msgspec

SLOTS = 16_384
ALL_SLOTS = ((0, SLOTS - 1),)
NODES_MAX = 256
"""The most nodes that may come and go while one engine runs: each has a number, and a place in shared memory."""


def slot_of(key: bytes) -> int:
    """Return the slot of a key: that of the content of its first braces, unless they are empty."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


class Node(msgspec.Struct, frozen=True):
    """One primary. Its ``number`` is the engine's own for it, never given to another node while the engine runs.

    ``id`` is the server's name for it, "" without cluster mode. ``address`` is where clients reach it (``host:port``),
    "" for what ``redis.url`` names; ``reads_at`` the address of the replica that is captured and read in its place, ""
    for none. ``slots`` are ranges with both ends. ``epoch`` is its configuration epoch: whoever takes over a slot has a
    higher one than all owners before.
    """

    number: int = 0
    id: str = ""
    address: str = ""
    slots: tuple[tuple[int, int], ...] = ALL_SLOTS
    epoch: int = 0
    reads_at: str = ""
    database: int | None = None
    """The database that is meant, if a command concerns one of several."""

    @property
    def place(self) -> str:
        """Return the address at which it is captured and read, "" for the one in ``redis.url``."""
        return self.reads_at or self.address

    def has_all(self) -> bool:
        """Tell whether every key belongs to it."""
        return self.slots == ALL_SLOTS

    def has_slot(self, slot: int) -> bool:
        """Tell whether the slot belongs to it."""
        return any(first <= slot <= last for first, last in self.slots)


class Topology(msgspec.Struct, frozen=True):
    """All nodes that have slots, or may get some. ``version`` grows with each one that the supervisor hands out."""

    nodes: tuple[Node, ...] = (Node(),)
    is_cluster: bool = False
    version: int = 0

    def owners(self) -> list[Node | None]:
        """Return the node of each slot, None for one without an owner."""
        found: list[Node | None] = [None] * SLOTS
        for node in self.nodes:
            for slot in slots_in(node.slots):
                found[slot] = node
        return found


def slots_in(ranges: Iterable[tuple[int, int]]) -> Iterable[int]:
    """Yield the slots of these ranges."""
    for first, last in ranges:
        yield from range(first, last + 1)


def slots_gained(before: Iterable[tuple[int, int]], now: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return, as ranges, the slots of ``now`` that ``before`` does not have."""
    return as_ranges(set(slots_in(now)).difference(slots_in(before)))


def as_ranges(slots: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Return these slots as ranges with both ends, in order."""
    ranges: list[tuple[int, int]] = []
    for slot in sorted(slots):
        if ranges and ranges[-1][1] == slot - 1:
            ranges[-1] = (ranges[-1][0], slot)
        else:
            ranges.append((slot, slot))
    return tuple(ranges)


def unowned_slots(topology: Topology) -> tuple[tuple[int, int], ...]:
    """Return the slots, as ranges, that no node has."""
    return as_ranges(set(range(SLOTS)).difference(*(slots_in(node.slots) for node in topology.nodes)))


def ranges_in_words(ranges: Sequence[tuple[int, int]], shown_max: int = 5) -> str:
    """Return slots as people read them: ``slots 0-5460, 7000 and 2 more ranges``."""
    if not ranges:
        return "no slots"
    shown = ", ".join(f"{low}-{high}" if low != high else f"{low}" for low, high in ranges[:shown_max])
    left = len(ranges) - shown_max
    return f"slots {shown}" + (f" and {left} more range{'s' if left > 1 else ''}" if left > 0 else "")
