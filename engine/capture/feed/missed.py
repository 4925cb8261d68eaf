"""What was missed: what covers two of them, and which routes and keys one of them means.  (pure)"""

from __future__ import annotations

from collections.abc import Callable

from engine.model import THE_BEGINNING_MS, Missed, RouteMask
from engine.routing.glob import matcher
from engine.routing.nodes import slot_of, slots_in


def is_alike(known: Missed, new: Missed) -> bool:
    """Tell whether one scan should look for both.

    The whole keyspace is for routes that begin with it, and slots that were gained are all to be found: with what was
    missed since a moment in the same scan, all of that would be delivered again.
    """
    is_whole, is_whole_now = (one.since_ms == THE_BEGINNING_MS for one in (known, new))
    return is_whole == is_whole_now and bool(known.slots) == bool(new.slots)


def merge(known: Missed, new: Missed) -> Missed:
    """Return what covers both."""
    mark = known.server_mark if known.server_mark == new.server_mark else 0
    routes = known.routes | new.routes
    clock_ms = max(known.clock_ms, new.clock_ms) if known.clock_ms and new.clock_ms else 0
    slots = known.slots + new.slots if known.slots and new.slots else ()
    return Missed(min(known.since_ms, new.since_ms), mark, routes, _delivered_of_both(known, new), clock_ms, slots)


def _delivered_of_both(known: Missed, new: Missed) -> dict[int, tuple[str, ...]]:
    """Return what neither misses: a route that both have lacks nothing of it only where they agree."""
    delivered = {**known.delivered, **new.delivered}
    for slot in list(delivered):
        in_both = (known.routes >> slot) & (new.routes >> slot) & 1
        if in_both and known.delivered.get(slot) != new.delivered.get(slot):
            del delivered[slot]
    return delivered


def routes_missing(missed: Missed) -> Callable[[bytes], RouteMask]:
    """Return what tells which routes miss a key, if they want it."""
    tests = [
        (1 << slot, matcher([pattern.encode() for pattern in patterns])) for slot, patterns in missed.delivered.items()
    ]

    def mask(key: bytes) -> RouteMask:
        routes = missed.routes
        for bit, matches in tests:
            if routes & bit and matches(key):
                routes &= ~bit
        return routes

    return mask


def is_among(missed: Missed) -> Callable[[bytes], bool]:
    """Return what tells whether a key is in the slots that were missed."""
    if not missed.slots:
        return lambda _key: True
    slots = frozenset(slots_in(missed.slots))
    return lambda key: slot_of(key) in slots
