"""When a shard needs to be compared with the destinations, because keys may have been deleted unheard.  (pure)

The comparison itself is not a subscriber's work: the supervisor has it done for all shards at once, by a process of its
own, which publishes what it finds. Until then the shard's watermark stands still.
"""

from __future__ import annotations

from engine.model import RouteMask
from engine.routing.absence import wants_absence
from engine.routing.routes import RouteTable


class Comparison:
    """Whether one is wanted, asked for, or done."""

    def __init__(self, table: RouteTable) -> None:
        self._table = table
        self._wanted = self._asked = self._done = 0

    def set_routes(self, table: RouteTable) -> RouteMask:
        """Take new routes; return those among them that begin with the whole keyspace."""
        known = {route.name for route in self._table.routes.values()}
        self._table = table
        new: RouteMask = 0
        for slot, route in table.routes.items():
            if route.name not in known and route.starting_position == "TRIM_HORIZON":
                new |= 1 << slot
        return new

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
