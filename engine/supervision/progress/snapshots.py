"""Which routes have had the whole keyspace, and what a changed one still has to get.  (pure)

``starting_position = "TRIM_HORIZON"`` promises a route every key that its keys and events cover. So what was delivered
is recorded with its filter: a route that gets the position later, or a wider filter, or another destination, receives
what is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from engine.config import RouteSettings
from engine.model import THE_BEGINNING_MS, Missed, RouteMask
from engine.routing.absence import heard_events
from engine.routing.events import EVENTS_OF_ABSENCE
from engine.routing.glob import takes_everything
from engine.routing.routes import RouteTable

WHOLE = "TRIM_HORIZON"


class Heard(msgspec.Struct, frozen=True):
    """What a route has listened to, and where that was delivered.

    ``is_whole`` if the destination was given all of it, and not only what changed.
    """

    keys: tuple[str, ...]
    events: tuple[str, ...]
    function: str
    destination: str = ""
    is_whole: bool = False

    @classmethod
    def by(cls, route: RouteSettings, *, is_whole: bool) -> Heard:
        """Return what this route listens to."""
        return cls(route.keys, route.events, route.function, route.destination, is_whole)


@dataclass(frozen=True, slots=True)
class Need:
    """A route needs the whole keyspace, except keys that ``delivered`` patterns match."""

    delivered: tuple[str, ...] = ()


def need_of(past: Heard | None, route: RouteSettings) -> Need | None:
    """Return what the route lacks of everything that it covers, None if that is nothing.

    New events of absence need nothing: what is gone is found by comparison with the destination.
    """
    if past is None or not past.is_whole or _goes_elsewhere(past, route):
        return Need()
    events = set(heard_events(route.events)) - set(heard_events(past.events))
    if events - EVENTS_OF_ABSENCE:
        return Need()
    is_wider = bool(set(route.keys) - set(past.keys))
    if not is_wider or any(takes_everything(pattern.encode()) for pattern in past.keys):
        return None
    return Need(past.keys)


def _goes_elsewhere(past: Heard, route: RouteSettings) -> bool:
    if past.destination and route.destination:
        return past.destination != route.destination
    return _target(past.function) != _target(route.function)


def _target(function: str) -> str:
    """Return a function's canonical name, however it is written: its name alone, or the ARN of a stream or queue."""
    parts = function.split(":")
    if parts[0] != "arn":
        return parts[0]
    return parts[6] if parts[2] == "lambda" and len(parts) > 6 else function


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """It ends when each node's watermark is younger than ``after_ms``, by node id; None until all children route by the
    table.
    """

    need: Need
    wanted: Heard
    after_ms: Mapping[str, int] | None


class Snapshots:
    """The routes of the table in force: what they had, and what is under way."""

    def __init__(self, past: Mapping[str, Heard], table: RouteTable, after_ms: Mapping[str, int]) -> None:
        """Begin with what was kept; ``after_ms`` is the moment of the start, by node id (each node's own clock)."""
        self._past = dict(past)
        self._under_way: dict[str, _UnderWay] = {}
        self._routes: Mapping[int, RouteSettings] = {}
        self.take_routes(table, after_ms)

    def take_routes(self, table: RouteTable, after_ms: Mapping[str, int] | None) -> None:
        """Take in a table; a route that was not in the previous one begins anew."""
        self._routes = table.routes
        routes = {route.name: route for route in table.routes.values()}
        self._past = {name: past for name, past in self._past.items() if name in routes}
        self._under_way = {name: one for name, one in self._under_way.items() if name in routes}
        for name, route in routes.items():
            need, wanted = need_of(self._past.get(name), route), Heard.by(route, is_whole=True)
            known = self._under_way.pop(name, None)
            if route.starting_position != WHOLE or need is None:
                self._past[name] = msgspec.structs.replace(wanted, is_whole=need is None)
            elif known is not None and known.wanted == wanted:
                self._under_way[name] = known
            else:
                self._under_way[name] = _UnderWay(need, wanted, after_ms)

    def in_force(self, after_ms: Mapping[str, int]) -> None:
        """Note that all children route by the table: watermarks after these moments follow the scans it asked for."""
        for name, one in self._under_way.items():
            if one.after_ms is None:
                self._under_way[name] = _UnderWay(one.need, one.wanted, after_ms)

    def advance(self, settled_ms: Mapping[str, int]) -> None:
        """Take in the watermarks of all nodes, by id, while none owes anything.

        None is sent while a scan is under way. A node that joined later had found everything before it had one.
        """
        for name, one in list(self._under_way.items()):
            after_ms = one.after_ms
            if after_ms is not None and all(ms > after_ms.get(id, 0) for id, ms in settled_ms.items()):
                self._past[name] = one.wanted
                del self._under_way[name]

    def missed(self, *, is_new: bool = False) -> tuple[Missed, ...]:
        """Return the scan of the whole keyspace for waiting routes; ``is_new``: for those not in force yet."""
        routes: RouteMask = 0
        delivered: dict[int, tuple[str, ...]] = {}
        for slot, route in self._routes.items():
            one = self._under_way.get(route.name)
            if one is None or (is_new and one.after_ms is not None):
                continue
            routes |= 1 << slot
            if one.need.delivered:
                delivered[slot] = one.need.delivered
        return (Missed(THE_BEGINNING_MS, routes=routes, delivered=delivered),) if routes else ()

    def listening(self) -> RouteMask:
        """Return the routes that listened before, or need no more than what changes from now on."""
        return sum(
            1 << slot
            for slot, route in self._routes.items()
            if route.name in self._past or route.name not in self._under_way
        )

    def done(self) -> tuple[str, ...]:
        """Return the routes that wait for nothing."""
        return tuple(sorted({route.name for route in self._routes.values()} - set(self._under_way)))

    def kept(self) -> dict[str, Heard]:
        """Return what a successor has to know."""
        return dict(self._past)

    def states(self) -> dict[str, str]:
        """Return how far each route's snapshot is: ``none`` (nobody asked for one), ``under way``, ``done``."""
        return {
            route.name: "under way"
            if route.name in self._under_way
            else ("done" if route.starting_position == WHOLE else "none")
            for route in self._routes.values()
        }
