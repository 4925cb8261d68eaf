"""What would happen to a key, in words: which routes take it, and why the others do not.  (pure)"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from engine.config import RouteSettings
from engine.routing.absence import deleting_events, follows_evictions, heard_events, takes_news, wants_absence
from engine.routing.events import (
    COMMANDS_PUBLISHED_AS,
    EVENTS_BY_CLASS,
    EVENTS_OF_ABSENCE,
    EVICTED,
    IGNORED,
    class_of,
    close_events,
    is_news,
)
from engine.routing.glob import matcher

TYPES = {"$": "string", "l": "list", "s": "set", "h": "hash", "z": "zset", "t": "stream", "d": "json"}
"""Class of an event → the type of its key."""


class Fate(NamedTuple):
    """What one route does with a key; ``pattern`` is the first of its patterns that takes it, "" if none does."""

    route: RouteSettings
    is_taken: bool
    why: str
    pattern: str = ""
    is_delete: bool = False
    """Whether its function is told that the key is gone."""


def fates_of(routes: Iterable[RouteSettings], key: bytes, event: str = "") -> list[Fate]:
    """Return what each route does with this key after this event; without one, after any that it listens to."""
    return [_fate(route, key, event) for route in routes]


def _fate(route: RouteSettings, key: bytes, event: str) -> Fate:
    pattern = next((one for one in route.keys if matcher([one.encode()])(key)), None)
    if pattern is None:
        return Fate(route, False, f"none of its keys matches: {', '.join(route.keys)}")
    listed = ", ".join(route.events)
    if not event:
        ways = "" if wants_absence(route.events) else "; it is not told when the key is removed"
        return Fate(route, True, f"after each of these events: {listed}{ways}", pattern)
    heard = heard_events(route.events, include_expiry=route.include_expiry)
    if event == EVICTED and not follows_evictions(route.events):
        why = f'it does not list "{EVICTED}": what the cache forgets, the destination keeps (events: {listed})'
        return Fate(route, False, why, pattern)
    if event in EVENTS_OF_ABSENCE and event not in deleting_events(route.events):
        why = f"it does not listen to removals of keys (events: {listed}): what was delivered of it stays"
        return Fate(route, False, why, pattern)
    if event not in heard and not (takes_news(route.events) and is_news(event)):
        return Fate(route, False, f"it does not listen to {event} (events: {listed})", pattern)
    if event in EVENTS_OF_ABSENCE:
        return Fate(route, True, "the function is told that the key is gone", pattern, is_delete=True)
    return Fate(route, True, "the value is read when its batch is made, not when it changed", pattern)


def type_after(event: str) -> str:
    """Return the type of a key after this event, as a record names it; a hash if the event does not say."""
    return TYPES.get(class_of(event) or "", "hash")


def about_event(event: str) -> tuple[str, str]:
    """Return what is wrong with the name of an event and a remedy; both are empty if nothing is."""
    if event in IGNORED:
        return f"{event} comes beside the event of the change itself, and is not captured", ""
    if class_of(event) is not None:
        return "", ""
    published = COMMANDS_PUBLISHED_AS.get(event.lower())
    if published is not None:
        return f"{event} is a command", f"it publishes {published}"
    if event.lower() in {name for names in EVENTS_BY_CLASS.values() for name in names}:
        return f"no server publishes {event}", f"names are in lower case: {event.lower()}"
    close = close_events(event)
    return f"no server that we know publishes {event}", f"did you mean {' or '.join(close)}?" if close else ""
