"""A subscriber's dirty keys: bounded, ordered, each key once, until a ring has taken them.  (pure)

One dictionary per invoker maps a key to its `Change`, which keys that changed in the same way share: a new key costs
only a place in it. `DirtyKeys.take_in` is the hottest loop of the engine, which is why it works on the parser's replies
directly: a call per event would cost as much as everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import hiredis

from engine.model import Change, Events, RouteMask
from engine.routing.events import EVENT_CHARS_MAX, REPAIR, REPAIR_GONE, is_news
from engine.routing.routes import ANY_NEWS, RouteTable

Interest = tuple[RouteMask, Callable[[bytes], RouteMask] | None, str]
"""Who wants an event: the mask if no route looks at the key, else a test of the key; and the event's name."""

LONG_KEY_BYTES = 1_024
"""Longer keys are also counted in bytes, so that neither a frame nor the dirty set outgrows its memory."""
LONG_KEYS_BYTES_MAX = 256 * 1024 * 1024
_ANY_NEWS = ANY_NEWS.encode()
_MARKS = frozenset({REPAIR.encode(), REPAIR_GONE.encode()})


@dataclass(slots=True)
class Intake:
    """What one read brought, counted in events.

    ``mappings`` are events of mapping hashes; ``marks`` are (key, event) of keys that an audit or a redrive wants to be
    dirty; ``others`` the replies that are not events (confirmations, pongs, errors).
    """

    read: int = 0
    routed: int = 0
    coalesced: int = 0
    dropped: int = 0
    too_long: int = 0
    mappings: int = 0
    marks: list[tuple[bytes, bytes]] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)


def interests(table: RouteTable) -> dict[bytes, Interest]:
    """Return the table in the shape that the hot loop reads fastest."""
    return {
        event: (routes.always, routes.mask if routes.some else None, event.decode())
        for event, routes in table.compile().items()
    }


def _name(event: bytes) -> str:
    """Return the name of an event that we do not know."""
    return event[:EVENT_CHARS_MAX].decode("ascii", "ignore")


def _checked(reply: Any) -> Any:
    """Return a reply that is not an event; raise TypeError if no subscription has such a reply."""
    if isinstance(reply, hiredis.ReplyError):
        return reply
    if not (isinstance(reply, list) and len(reply) > 1 and isinstance(reply[0], bytes)):
        raise TypeError(f"a {type(reply).__name__}")
    return reply


def _telling(change: Change, events: Events) -> Change:
    """Return the change with these events."""
    return Change(change.event, change.routes, change.captured_ms, events)


class _Alike(dict[RouteMask, Change]):
    """By mask: what all new keys of one event in one read share; and keys that were dirty before."""

    def __init__(self, name: str, now_ms: int) -> None:
        super().__init__()
        self._name = name
        self._now_ms = now_ms
        # By the identity of what was known of a key: that object, so that its identity is not reused, and what is known
        # now.
        self._after: dict[int, tuple[Change, Change]] = {}

    def __missing__(self, mask: RouteMask) -> Change:
        change = self[mask] = Change(self._name, mask, self._now_ms)
        return change

    def after(self, known: Change, mask: RouteMask) -> Change:
        """Return what is known about a key after an event for these routes."""
        pair = self._after.get(id(known))
        if pair is not None and pair[1].routes == mask | known.routes:
            return pair[1]
        change = Change(self._name, mask | known.routes, known.captured_ms, known.events)
        self._after[id(known)] = known, change
        return change


class DirtyKeys:
    """The dirty keys on their way to the rings; ``keys_max`` bounds them all together.

    ``prefix_bytes`` is the length of what precedes the key in a channel; a key that begins with ``mapping_prefix`` is
    configuration and never data. At most ``uncoalesced_events_max`` events of a key are kept apart.
    """

    def __init__(
        self,
        *,
        prefix_bytes: int,
        invokers: int,
        keys_max: int,
        key_bytes_max: int,
        mapping_prefix: bytes,
        uncoalesced_events_max: int = 100,
    ) -> None:
        assert invokers > 0
        self.buckets: list[dict[bytes, Change]] = [{} for _ in range(invokers)]
        """Each invoker's keys and what is known of them, the oldest first."""
        self.long_bytes = [0] * invokers
        """How many bytes each invoker's long keys take."""
        self._prefix_bytes = prefix_bytes
        self._keys_max = keys_max
        self._key_bytes_max = key_bytes_max
        self._mapping_prefix = mapping_prefix
        self._holes = [0] * invokers
        self.uncoalesced: RouteMask = 0
        """The routes that want each event."""
        self._events_max = uncoalesced_events_max
        self._events = 0
        """How many events are kept apart, over all keys."""

    def __len__(self) -> int:
        return sum(map(len, self.buckets))

    def take_in(self, next_reply: Callable[[], Any], table: dict[bytes, Interest], now_ms: int) -> Intake:
        """Take in all whole replies that the parser has, until it returns False.

        A key that is already dirty merges: all its routes, its newest event, its oldest time. Past ``keys_max`` a new
        key is dropped and counted: its shard then has a gap. Raises `hiredis.ProtocolError`, also for a valid reply
        that no subscription has.
        """
        try:
            return self._take_in(next_reply, table, now_ms)
        except (AttributeError, LookupError, MemoryError, TypeError) as error:
            raise hiredis.ProtocolError(f"a malformed message ({error})") from error

    def _take_in(self, next_reply: Callable[[], Any], table: dict[bytes, Interest], now_ms: int) -> Intake:
        intake = Intake()
        others = intake.others
        buckets, invokers = self.buckets, len(self.buckets)
        bucket = buckets[0]
        start, mapping = self._prefix_bytes, self._mapping_prefix
        tail = slice(start, None)
        unasked_bytes = min(LONG_KEY_BYTES, self._key_bytes_max)
        room = free = self._keys_max - len(self)
        # Events arrive in runs of one name, and only rare cases are counted: each saves a part of a loop of 0.4 µs.
        last: object = intake  # No event is equal to this.
        name = ""
        mask: RouteMask = 0
        alike = _Alike(name, now_ms)
        by_event: dict[bytes, _Alike] = {}
        mask_of: Callable[[bytes], RouteMask] | None = None
        news = table.get(_ANY_NEWS)
        unwanted = coalesced = 0
        uncoalesced = self.uncoalesced
        while (reply := next_reply()) is not False:
            try:
                kind, _, channel, event = reply
            except (TypeError, ValueError):
                kind = None
            if kind != b"pmessage":
                others.append(_checked(reply))
                continue
            if mapping and channel.startswith(mapping, start):
                intake.mappings += 1
                continue
            if event != last:
                if event in table:
                    mask, mask_of, name = table[event]
                elif event in _MARKS or news is None or not is_news(unknown := _name(event)):
                    unwanted += 1
                    if event in _MARKS:
                        intake.marks.append((channel[tail], event))
                    continue
                else:
                    mask, mask_of, name = news[0], news[1], unknown
                last = event
                if event not in by_event:
                    by_event[event] = _Alike(name, now_ms)
                alike = by_event[event]
            key = channel[tail]
            if mask_of is not None and not (mask := mask_of(key)):
                unwanted += 1
                continue
            if invokers > 1:
                bucket = buckets[crc32(key) % invokers]
            if key in bucket:
                known = bucket[key]
                if known.event != name or mask | known.routes != known.routes:
                    bucket[key] = alike.after(known, mask)
                coalesced += 1
            elif (room > 0 and len(key) <= unasked_bytes) or self._admit(key, room, intake):
                bucket[key] = alike[mask]
                room -= 1
            if uncoalesced and mask & uncoalesced:
                self._keep_apart(bucket, key, name, now_ms)
        intake.coalesced = coalesced
        intake.routed = free - room + coalesced + intake.dropped + intake.too_long
        intake.read = intake.routed + unwanted + intake.mappings
        return intake

    def _keep_apart(self, bucket: dict[bytes, Change], key: bytes, name: str, now_ms: int) -> None:
        """Note an event of a key by itself; past the bounds, for a key and for all, it merges with those before it."""
        change = bucket.get(key)
        if change is not None and len(change.events) < self._events_max and self._events < self._keys_max:
            bucket[key] = _telling(change, (*change.events, (name, now_ms)))
            self._events += 1

    def _admit(self, key: bytes, room: int, intake: Intake) -> bool:
        """Tell whether there is room for a long key, or for one past the bound; count it if there is not."""
        size = len(key)
        if size > self._key_bytes_max:
            intake.too_long += 1
            return False
        if room <= 0 or (size > LONG_KEY_BYTES and sum(self.long_bytes) + size > LONG_KEYS_BYTES_MAX):
            intake.dropped += 1
            return False
        if size > LONG_KEY_BYTES:
            self.long_bytes[crc32(key) % len(self.buckets)] += size
        return True

    def holds(self, key: bytes) -> bool:
        """Tell whether a key is dirty here."""
        return key in self.buckets[crc32(key) % len(self.buckets)]

    def mark(
        self, keys: Iterable[bytes], mask_of: Callable[[bytes], RouteMask], event: str, now_ms: int
    ) -> tuple[int, list[bytes]]:
        """Mark keys dirty without an event; return how many, and those for which there is no room.

        A key that is already dirty keeps its event, and gets the routes that it lacks.
        """
        marked, left = 0, []
        alike = _Alike(event, now_ms)
        room, invokers = self._keys_max - len(self), len(self.buckets)
        for key in keys:
            mask, size = mask_of(key), len(key)
            if not mask or size > self._key_bytes_max:
                continue
            invoker = crc32(key) % invokers
            known = self.buckets[invoker].get(key)
            if known is not None:
                if mask | known.routes != known.routes:
                    routes = mask | known.routes
                    self.buckets[invoker][key] = Change(known.event, routes, known.captured_ms, known.events)
            elif room <= 0 or (size > LONG_KEY_BYTES and sum(self.long_bytes) + size > LONG_KEYS_BYTES_MAX):
                left.append(key)
                continue
            else:
                if size > LONG_KEY_BYTES:
                    self.long_bytes[invoker] += size
                self.buckets[invoker][key] = alike[mask]
                room -= 1
            marked += 1
        return marked, left

    def coalesce(self, invoker: int, key: bytes) -> Change:
        """Merge all events of this key into one change; return it."""
        change = self.buckets[invoker][key]
        self._events -= len(change.events)
        self.buckets[invoker][key] = change = _telling(change, ())
        return change

    def forget(self, keys: Iterable[bytes]) -> None:
        """Remove these again: they are not user data, and short."""
        for key in keys:
            change = self.buckets[crc32(key) % len(self.buckets)].pop(key, None)
            self._events -= len(change.events) if change else 0

    def remove(self, invoker: int, keys: Sequence[bytes]) -> None:
        """Forget these keys, which were taken from this invoker's bucket: a ring has them now."""
        bucket = self.buckets[invoker]
        if self._events:
            self._events -= sum(len(bucket[key].events) for key in keys)
        if len(keys) == len(bucket):
            bucket.clear()
            self.long_bytes[invoker] = self._holes[invoker] = 0
            return
        for key in keys:
            del bucket[key]
        if self.long_bytes[invoker]:
            self.long_bytes[invoker] -= sum(size for size in map(len, keys) if size > LONG_KEY_BYTES)
        # A dictionary keeps the places of what was removed, and walks over them before its first entry.
        self._holes[invoker] += len(keys)
        if self._holes[invoker] > len(bucket):
            self.buckets[invoker] = dict(bucket)
            self._holes[invoker] = 0
