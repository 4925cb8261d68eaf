"""When a feed needs to be compared with the destinations, because keys may have been deleted unheard.  (pure)

The comparison itself is not a subscriber's work: the supervisor has it done for all shards at once, by a process of its
own, which publishes what it finds. Until then the feed's watermark stands at the start of the gap.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from engine.capture.feed.gaps import earliest
from engine.model import THE_BEGINNING_MS, Missed
from engine.routing.absence import wants_absence
from engine.routing.routes import RouteTable

ASKED_MAX = 2
"""Wishes that are asked for and not done: the one that is worked on, and the next."""


class Comparison:
    """What was missed, and is to be compared: wanted, or asked for."""

    def __init__(self, table: RouteTable, numbers: Iterator[int]) -> None:
        """``numbers`` are those of all wishes of this subscriber, in the order in which they are asked for."""
        self._table = table
        self._wanted: Missed | None = None
        self._asked: list[tuple[int, Missed]] = []
        self._numbers = numbers

    def set_routes(self, table: RouteTable) -> None:
        """Take new routes; one that now hears of keys that are gone needs a comparison for those that went before."""
        before = {route.name for route in self._table.routes.values() if not wants_absence(route.events)}
        self._table = table
        if any(route.name in before and wants_absence(route.events) for route in table.routes.values()):
            self.want(Missed(THE_BEGINNING_MS))

    def want(self, missed: Missed) -> None:
        """Have one begin after now, for what was missed since then."""
        if any(route.destination and wants_absence(route.events) for route in self._table.routes.values()):
            self._wanted = _both(self._wanted, missed)

    @property
    def is_wanted(self) -> bool:
        """Tell whether there is something to ask for."""
        return self._wanted is not None

    def oldest(self) -> Missed | None:
        """Return the earliest that was missed, and for which none is done."""
        return earliest((self._wanted, *(missed for _, missed in self._asked)))

    def lacks_slots(self) -> bool:
        """Tell whether slots that were gained are among it."""
        wanted = (self._wanted,) if self._wanted is not None else ()
        return any(missed.slots for missed in (*wanted, *(missed for _, missed in self._asked)))

    def ask(self) -> int:
        """Return the number to ask for, 0 if nothing is to be asked for now."""
        if self._wanted is None or len(self._asked) == ASKED_MAX:
            return 0
        number = next(self._numbers)
        self._asked.append((number, self._wanted))
        self._wanted = None
        return number

    def done(self, number: int) -> None:
        """Note that what was asked for is done, and what was asked for before."""
        self._asked = [one for one in self._asked if one[0] > number]


def _both(known: Missed | None, new: Missed) -> Missed:
    """Return the one that began first, with the slots of either: a comparison is of everything."""
    if known is None:
        return new
    first = min((known, new), key=lambda missed: missed.since_ms)
    return replace(first, slots=known.slots or new.slots)
