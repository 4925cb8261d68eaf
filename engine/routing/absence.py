"""What a route makes of a key that is gone, and under which names it has to listen for that.  (pure)

**Servers name one thing differently.** A replica says ``del`` of a key that expired or was evicted, ``hdel`` of a field
that expired, and the command that it was sent where the primary was sent another. ``EXPIRE`` with a moment in the past
is ``del`` on some versions and ``expired`` on others. So a route hears what it lists under every name that it may have,
and one that lists a way for a key to go hears of all of them, but of evictions only where it lists them.

**What can be known.** A primary names an eviction. A replica does not: there it is a ``del``, and counts as one. A key
that is *found* gone after an event that does not say so (it was deleted before it was read, or unheard) was taken away
for certain only where the server never evicts, and has not begun again; else a route that does not list ``evicted``
leaves it as it is until an event says more (`engine.delivery.reading.gone`).
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
"""Entries of a route that wants to know of keys that are gone. ``"*"`` is none, though it stands for ``hexpired``."""

_ALSO_CALLED = {"hexpired": "hdel", "spop": "srem", "incrbyfloat": "set", "hincrbyfloat": "hset"}
"""Event → its name on a replica, which is sent the effect and not the command."""

_EXPIRY_CHANGES = ("expire", "persist")

_GOES_WITHOUT_DEL = "json.del"
"""Of the document's root: the module takes the key away, and no ``del`` is published."""


def wants_absence(events: Iterable[str]) -> bool:
    """Tell whether a route with these entries tells its function of keys that are gone."""
    return not _ASKS_FOR_ABSENCE.isdisjoint(events)


def follows_evictions(events: Iterable[str]) -> bool:
    """Tell whether it does so of keys that were evicted."""
    return EVICTED in events


def heard_events(entries: Sequence[str], *, include_expiry: bool = False) -> tuple[str, ...]:
    """Return every event that a route with these entries has to hear to end equal on any server.

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
    """Tell whether a route with these entries takes events that nobody knows yet."""
    return CHANGES in events


def deleting_events(events: Iterable[str]) -> frozenset[str]:
    """Return the events after which a key that is gone is a delete, for a route with these entries."""
    entries = tuple(events)
    if not wants_absence(entries):
        return frozenset()
    deleting = {*ABSENCE_EVENTS, _GOES_WITHOUT_DEL, REPAIR_GONE}
    return frozenset(deleting | ({EVICTED} if follows_evictions(entries) else set()))
