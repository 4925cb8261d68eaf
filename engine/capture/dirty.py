"""A subscriber's dirty keys: bounded, ordered, each key once, until a ring has taken them.  (pure)

One dictionary an invoker. `DirtyKeys.take_in` is the hottest loop of the engine, which is why it works on the
parser's replies itself: a call an event would cost as much as all the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from engine.model import Change, RouteMask
from engine.routes import RouteTable

Interest = tuple[RouteMask, Callable[[bytes], RouteMask] | None, str]
"""Who wants an event: the mask where no route looks at the key, what tells it by the key, the event's name."""

PMESSAGE_WORDS = 4
"""``pmessage``, pattern, channel, event; confirmations have three words, a pong two."""


@dataclass(slots=True)
class Intake:
    """What one turn of reading brought."""

    read: int = 0
    routed: int = 0
    coalesced: int = 0
    dropped: int = 0
    too_long: int = 0
    mapping_changed: bool = False
    others: list[Any] = field(default_factory=list)


def interests(table: RouteTable) -> dict[bytes, Interest]:
    """Return the table in the shape that the hot loop reads fastest."""
    return {
        event: (routes.always, routes.mask if routes.some else None, event.decode())
        for event, routes in table.compile().items()
    }


class DirtyKeys:
    """The dirty keys on their way to the rings; ``keys_max`` bounds them all together."""

    def __init__(
        self, *, prefix_bytes: int, invokers: int, keys_max: int, key_bytes_max: int, mapping_prefix: bytes
    ) -> None:
        self._prefix_bytes = prefix_bytes
        self._keys_max = keys_max
        self._key_bytes_max = key_bytes_max
        self._mapping_prefix = mapping_prefix
        self.buckets: list[dict[bytes, Change]] = [{} for _ in range(invokers)]

    def __len__(self) -> int:
        return sum(map(len, self.buckets))

    def take_in(self, next_reply: Callable[[], Any], table: dict[bytes, Interest], now_ms: int) -> Intake:
        """Take in all whole replies that the parser has, until it returns False.

        Past ``keys_max`` a new key is dropped and counted: its shard then has a gap. Keys that are dirty
        already merge whatever happens.
        """
        intake = Intake()
        buckets, invokers = self.buckets, len(self.buckets)
        first = buckets[0]
        start = self._prefix_bytes
        mapping = self._mapping_prefix
        room = self._keys_max - len(self)
        wanted = table.get
        read = routed = coalesced = 0
        while (reply := next_reply()) is not False:
            if len(reply) != PMESSAGE_WORDS:
                intake.others.append(reply)
                continue
            read += 1
            key = reply[2][start:]
            if mapping and key.startswith(mapping):
                intake.mapping_changed = True
                continue
            entry = wanted(reply[3])
            if entry is None:
                continue
            mask, mask_of, event = entry
            if mask_of is not None and not (mask := mask_of(key)):
                continue
            routed += 1
            bucket = first if invokers == 1 else buckets[crc32(key) % invokers]
            known = bucket.get(key)
            if known is not None:
                known.event = event
                known.routes |= mask
                coalesced += 1
            elif len(key) > self._key_bytes_max:
                intake.too_long += 1
            elif room <= 0:
                intake.dropped += 1
            else:
                bucket[key] = Change(key, event, mask, now_ms)
                room -= 1
        intake.read, intake.routed, intake.coalesced = read, routed, coalesced
        return intake
