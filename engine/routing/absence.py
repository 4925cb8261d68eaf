"""What a route does with a key that is gone, and under which names it has to listen for that.  (pure)

**Servers use different names for one thing.** A replica reports ``del`` for a key that expired or was evicted, ``hdel``
for a field that expired, and the command that the primary sent it, which may differ from the client's. ``EXPIRE`` with
a moment in the past is ``del`` on some versions and ``expired`` on others. So a route hears what it lists under every
name that it may have. A route that lists one kind of removal hears all of them, but evictions only if it lists them.

**What can be known.** A primary names an eviction. A replica does not: there it is a ``del``, and counts as one. A key
that is *found* gone after an event that does not say so (it was deleted before it was read, or unheard) was certainly
removed only if the server never evicts and has not begun again. Otherwise a route that does not list ``evicted`` leaves
it as it is until an event says more (`engine.delivery.reading.gone`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.routing.events import (
    ABSENCE,
    ABSENCE_EVENTS,
    CHANGES,
    EVENTS_OF_ABSENCE,
    EVICTED,
    REPAIR_GONE,
    expand_events,
)

_ASKS_FOR_ABSENCE = EVENTS_OF_ABSENCE | {"hexpired", ABSENCE, CHANGES}
"""Entries of a route that wants to know about removed keys. ``"*"`` is not one, though it includes ``hexpired``."""

_ALSO_CALLED = {"hexpired": "hdel", "spop": "srem", "incrbyfloat": "set", "hincrbyfloat": "hset"}
"""Event → its name on a replica, which is sent the effect and not the command."""

_EXPIRY_CHANGES = ("expire", "persist")

_GOES_WITHOUT_DEL = "json.del"
"""For the document's root: the module removes the key, and publishes no ``del``."""


def wants_absence(events: Iterable[str]) -> bool:
    """Tell whether a route with these entries tells its function of keys that are gone."""
    return not _ASKS_FOR_ABSENCE.isdisjoint(events)


def follows_evictions(events: Iterable[str]) -> bool:
    """Tell whether it does so for keys that were evicted."""
    return EVICTED in events


def heard_events(entries: Sequence[str], *, include_expiry: bool = False) -> tuple[str, ...]:
    """Return every event that a route with these entries has to hear, so that the result is the same on any server.

    With ``include_expiry``, the time at which a key expires is a part of its record.
    """
    names = dict.fromkeys(expand_events(entries))
    names.update(dict.fromkeys(other for name, other in _ALSO_CALLED.items() if name in names))
    if include_expiry and CHANGES in entries:
        names.update(dict.fromkeys(_EXPIRY_CHANGES))
    if wants_absence(entries):
        names.update(dict.fromkeys(ABSENCE_EVENTS))
        if any(name.startswith("json.") for name in names):
            names[_GOES_WITHOUT_DEL] = None
    return tuple(names)


def takes_news(events: Iterable[str]) -> bool:
    """Tell whether a route with these entries takes events that are not known yet."""
    return CHANGES in events


def deleting_events(events: Iterable[str]) -> frozenset[str]:
    """Return the events after which a key that is gone is a delete, for a route with these entries."""
    entries = tuple(events)
    if not wants_absence(entries):
        return frozenset()
    deleting = {*ABSENCE_EVENTS, _GOES_WITHOUT_DEL, REPAIR_GONE}
    return frozenset(deleting | ({EVICTED} if follows_evictions(entries) else set()))
