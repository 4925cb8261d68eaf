"""When a shard needs to be compared with the destinations, because keys may have been deleted unheard.  (pure)

The comparison itself is not a subscriber's work: the supervisor has it done for all shards at once, by a process of its
own, which publishes what it finds. Until then the shard's watermark stands still.
"""

from __future__ import annotations

from engine.routing.absence import wants_absence
from engine.routing.routes import RouteTable


class Comparison:
    """Whether one is wanted, asked for, or done."""

    def __init__(self, table: RouteTable) -> None:
        self._table = table
        self._wanted = self._asked = self._done = 0

    def set_routes(self, table: RouteTable) -> None:
        """Take new routes; one that now hears of keys that are gone needs a comparison for those that went before."""
        before = {route.name for route in self._table.routes.values() if not wants_absence(route.events)}
        self._table = table
        if any(route.name in before and wants_absence(route.events) for route in table.routes.values()):
            self.want()

    def want(self) -> None:
        """Ask for one that begins after now."""
        if any(route.destination and wants_absence(route.events) for route in self._table.routes.values()):
            self._wanted += 1

    def is_wanted(self) -> bool:
        """Tell whether one is wanted that is not done."""
        return self._done < self._wanted

    def ask(self) -> int:
        """Return the number to ask for, 0 where it was asked for already."""
        if self._asked == self._wanted:
            return 0
        self._asked = self._wanted
        return self._asked

    def done(self, number: int) -> None:
        """Note that what was asked for is done."""
        self._done = max(self._done, number)
