"""When a shard needs to be compared with the destinations, because keys may have been deleted unheard.  (pure)

The comparison itself is not a subscriber's work: the supervisor has it done for all shards at once, by a process of its
own, which publishes what it finds. Until then the shard's watermark stands at the start of the gap.
"""

from __future__ import annotations

from engine.capture.gaps import earliest
from engine.model import THE_BEGINNING_MS, Missed
from engine.routing.absence import wants_absence
from engine.routing.routes import RouteTable

ASKED_MAX = 2
"""Wishes that are asked for and not done: the one that is worked on, and the next."""


class Comparison:
    """What was missed, and is to be compared: wanted, or asked for."""

    def __init__(self, table: RouteTable) -> None:
        self._table = table
        self._wanted: Missed | None = None
        self._asked: list[tuple[int, Missed]] = []
        self._number = 0

    def set_routes(self, table: RouteTable) -> None:
        """Take new routes; one that now hears of keys that are gone needs a comparison for those that went before."""
        before = {route.name for route in self._table.routes.values() if not wants_absence(route.events)}
        self._table = table
        if any(route.name in before and wants_absence(route.events) for route in table.routes.values()):
            self.want(Missed(THE_BEGINNING_MS))

    def want(self, missed: Missed) -> None:
        """Have one begin after now, for what was missed since then."""
        if any(route.destination and wants_absence(route.events) for route in self._table.routes.values()):
            self._wanted = earliest((self._wanted, missed))

    def oldest(self) -> Missed | None:
        """Return the earliest that was missed, and for which none is done."""
        return earliest((self._wanted, *(missed for _, missed in self._asked)))

    def ask(self) -> int:
        """Return the number to ask for, 0 where nothing is to be asked for now."""
        if self._wanted is None or len(self._asked) == ASKED_MAX:
            return 0
        self._number += 1
        self._asked.append((self._number, self._wanted))
        self._wanted = None
        return self._number

    def done(self, number: int) -> None:
        """Note that what was asked for is done, and what was asked for before."""
        self._asked = [one for one in self._asked if one[0] > number]
