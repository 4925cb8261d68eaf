"""Which keys and events go to which function: the table that every process routes by. Pure.

A subscriber asks by event name (`RouteTable.compile`), an invoker by slot (`RouteTable.routes`). A ring
carries slots, as bits of a mask, so a slot must not change its meaning while changes are on their way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from engine.config import RouteSettings
from engine.model import ROUTE_SLOTS_MAX, RouteMask
from engine.routing.absence import deleting_events, heard_events, takes_news
from engine.routing.events import EVENTS_OF_ABSENCE, merge_flags, notification_flags
from engine.routing.glob import Matcher, matcher, takes_everything

ANY_NEWS = ""
"""Stands for every event that is not known yet (`is_news`); no event has an empty name."""

__all__ = ["EventRoutes", "RouteTable", "merge_flags", "notification_flags"]


class EventRoutes:
    """The routes that want an event; the hot path reads the two fields itself."""

    __slots__ = ("always", "some")

    def __init__(self, always: RouteMask, some: tuple[tuple[RouteMask, Matcher], ...]) -> None:
        self.always = always
        """The routes that take every key."""
        self.some = some
        """One bit and its test of the key, for each route that takes some keys."""

    def mask(self, key: bytes) -> RouteMask:
        """Return the routes that want this key."""
        mask = self.always
        for bit, matches in self.some:
            if matches(key):
                mask |= bit
        return mask


def wants(route: RouteSettings) -> Callable[[bytes, str], bool]:
    """Return a test whether a route may want a key that changed, with this as its newest event.

    One change may stand for several events, so a route that wants any event that leaves the key in place wants it.
    """
    patterns = [pattern.encode() for pattern in route.keys]
    matches = (lambda _key: True) if any(map(takes_everything, patterns)) else matcher(patterns)
    events = set(heard_events(route.events, include_expiry=route.include_expiry))
    if events - EVENTS_OF_ABSENCE:
        return lambda key, event: bool(matches(key))
    events |= deleting_events(route.events)
    return lambda key, event: event in events and bool(matches(key))


def meaning(route: RouteSettings) -> str:
    """Return what a mark for this route means: its name, and the keys and events that it takes."""
    return repr((route.name, route.keys, route.events))


class RouteTable(msgspec.Struct, frozen=True):
    """The routes in force, each in its slot; immutable, and the same in every process.

    ``version`` grows with every reload. A route whose keys or events were changed gets another slot: marks that are on
    their way mean what they meant. ``retired`` remembers the slots of removed routes (`meaning`), the oldest first: a
    route that comes back gets its slot again, and others get it only if there is no other choice. ``recycled`` are the
    slots that had to be given to another one: what marks in them mean is not certain. ``unfenced`` are the slots of
    routes whose function keeps older values out by itself, as it has said when this table was made.
    """

    version: int
    routes: Mapping[int, RouteSettings]
    retired: tuple[tuple[int, str], ...] = ()
    recycled: RouteMask = 0
    unfenced: RouteMask = 0

    @classmethod
    def build(cls, routes: Sequence[RouteSettings], previous: RouteTable | None = None) -> RouteTable:
        """Give each route a slot: the one that it has in ``previous``, if it is there with the same keys and events.

        Names must differ, and there must be a slot for each: the settings are checked for both.
        """
        names = [route.name for route in routes]
        assert len(names) == len(set(names)) and len(names) <= ROUTE_SLOTS_MAX
        before = _slots_before(previous)
        wanted = {meaning(route): route for route in routes}
        slots = {what: slot for what, slot in before.items() if what in wanted}
        spare = [slot for slot in range(ROUTE_SLOTS_MAX) if slot not in before.values()]
        spare += [slot for what, slot in before.items() if what not in slots]
        recycled = previous.recycled if previous else 0
        for what, slot in zip((what for what in wanted if what not in slots), spare, strict=False):
            slots[what] = slot
            recycled |= (slot in before.values()) << slot
        taken = set(slots.values())
        return cls(
            version=previous.version + 1 if previous else 1,
            routes={slots[what]: route for what, route in wanted.items()},
            retired=tuple((slot, what) for what, slot in before.items() if slot not in taken),
            recycled=recycled,
        )

    def with_unfenced(self, functions: Collection[str]) -> RouteTable:
        """Return the table in which the routes of batches to these functions are unfenced, and no others."""
        wanted = (slot for slot, one in self.routes.items() if one.function in functions and one.payload == "batch")
        return msgspec.structs.replace(self, unfenced=sum(1 << slot for slot in wanted))

    def fenced(self) -> tuple[RouteSettings, ...]:
        """Return the routes whose keys wait until a lost invocation can no longer write."""
        return tuple(route for slot, route in self.routes.items() if not self.unfenced >> slot & 1)

    def uncoalesced(self) -> RouteMask:
        """Return the routes that want each event as a record of its own."""
        return sum(1 << slot for slot, route in self.routes.items() if not route.coalesce)

    def compile(self) -> dict[bytes, EventRoutes]:
        """Return event name → the routes that want it; an event that no route wants is absent.

        `ANY_NEWS` has those that want events that are not known yet.
        """
        always: dict[str, RouteMask] = {}
        some: dict[str, list[tuple[RouteMask, Matcher]]] = {}
        for slot, route in self.routes.items():
            bit = 1 << slot
            patterns = [pattern.encode() for pattern in route.keys]
            takes_all = any(map(takes_everything, patterns))
            test = None if takes_all else matcher(patterns)
            names = heard_events(route.events, include_expiry=route.include_expiry) + (
                (ANY_NEWS,) if takes_news(route.events) else ()
            )
            for event in names:
                always[event] = always.get(event, 0) | (bit if test is None else 0)
                if test is not None:
                    some.setdefault(event, []).append((bit, test))
        return {event.encode(): EventRoutes(mask, tuple(some.get(event, ()))) for event, mask in always.items()}

    def for_repairs(self) -> EventRoutes:
        """Return the routes that want a key that may have changed unheard: all with an event that leaves it there."""
        return self._union(event for event in self.compile() if event.decode() not in EVENTS_OF_ABSENCE)

    def for_deletes(self) -> EventRoutes:
        """Return the routes that want to hear that a key is gone, whatever removed it."""
        return self._union([b"del"])

    def _union(self, events: Iterable[bytes]) -> EventRoutes:
        compiled = self.compile()
        always: RouteMask = 0
        some: dict[RouteMask, Matcher] = {}
        for event in events:
            if event in compiled:
                always |= compiled[event].always
                some.update(compiled[event].some)
        return EventRoutes(always, tuple(some.items()))

    def notification_flags(self) -> str:
        """Return the fewest notification flags that these routes need."""
        return notification_flags(self.events())

    def events(self) -> set[str]:
        """Return every event that some route has to hear."""
        return {
            event
            for route in self.routes.values()
            for event in heard_events(route.events, include_expiry=route.include_expiry)
        }

    def encode(self) -> bytes:
        """Return the table as bytes for another process."""
        return _encoder.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> RouteTable:
        """Return the table that `encode` encoded in these bytes."""
        return _decoder.decode(data)


def _slots_before(previous: RouteTable | None) -> dict[str, int]:
    """Return the meaning of a mark → its slot, for all that ever had one: retired ones first, the oldest first."""
    if previous is None:
        return {}
    before = {what: slot for slot, what in previous.retired}
    before.update((meaning(route), slot) for slot, route in previous.routes.items())
    return before


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RouteTable)
