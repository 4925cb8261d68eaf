"""Which changes of its keys a route will not see, in words for its author.  (pure)

A list of events by name misses what it does not name, and nobody notices until the table differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from engine.config import RouteSettings
from engine.routing.absence import follows_evictions, heard_events, wants_absence
from engine.routing.events import ABSENCE, CHANGES, EVENTS_BY_CLASS, EVICTED, KEY_GETS_A_VALUE, WRITE_EVENTS

_KINDS = {
    "$": "strings",
    "l": "lists",
    "s": "sets",
    "h": "hashes",
    "z": "sorted sets",
    "t": "streams",
    "d": "JSON documents",
}
NOTHING = ("", "")
NAMES_MAX = 5


def unseen(route: RouteSettings) -> tuple[str, str]:
    """Return what the route misses and the remedy, both empty if it sees all."""
    if CHANGES in route.events:
        return NOTHING
    heard = set(heard_events(route.events, include_expiry=route.include_expiry))
    missed = [*_of_heard_types(heard), *_of_any_type(heard)]
    if others := [name for letter, name in _KINDS.items() if not heard & set(EVENTS_BY_CLASS[letter])]:
        missed.append(f"any write to {_listed(others)}, even one that replaces a value that was delivered")
    if not wants_absence(route.events):
        missed.append("keys that are deleted, renamed away or expire, so what was delivered of them stays")
    if not missed:
        return NOTHING
    is_all_but_absence = missed[0].startswith("keys that are deleted")
    remedy = (
        f'add "{ABSENCE}" if it should not stay' if is_all_but_absence else f'events = ["{CHANGES}"] sees all of it'
    )
    return "will not see " + "; ".join(missed), remedy


def _of_heard_types(heard: set[str]) -> list[str]:
    """Return the writes that are not heard, for each type of which some are."""
    missed = []
    for letter, kind in _KINDS.items():
        events = [event for event in EVENTS_BY_CLASS[letter] if event in WRITE_EVENTS]
        lacking = [event for event in events if event not in heard]
        if lacking and len(lacking) < len(events):
            missed.append(f"{', '.join(lacking)} of {kind}")
    return missed


def _of_any_type(heard: set[str]) -> list[str]:
    lacking = [event for event in KEY_GETS_A_VALUE if event not in heard]
    return [f"keys whose whole value is replaced ({', '.join(lacking)})"] if lacking else []


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def unseen_evictions(route: RouteSettings, policy: str, *, is_replica: bool) -> tuple[str, str]:
    """Return what happens to evictions under this ``maxmemory-policy``, and the remedy; a replica has its primary's."""
    if policy in {"", "noeviction"}:
        return NOTHING
    if is_replica:
        if not wants_absence(route.events) or follows_evictions(route.events):
            return NOTHING
        return (
            "can't tell evictions from deletions: a replica reports del for both, so evicted keys are deleted too",
            f'capture from the primary where it evicts, or add "{EVICTED}" to say that this is meant',
        )
    if follows_evictions(route.events):
        return (f"deletes what the server evicts ({policy})", f'leave "{EVICTED}" out to keep it')
    if policy.startswith("allkeys-"):
        return (
            f"will not see evictions ({policy}): what was delivered of evicted keys stays",
            f'add "{EVICTED}" if it should not stay',
        )
    return NOTHING


def notes_of(
    routes: Iterable[RouteSettings], policy: str = "", *, is_replica: bool = False
) -> Iterator[tuple[str, str, str]]:
    """Yield which routes miss something, what, and the remedy; routes that miss the same are reported once."""
    names: dict[tuple[str, str], list[str]] = {}
    for route in routes:
        for note in (unseen(route), unseen_evictions(route, policy, is_replica=is_replica)):
            if note != NOTHING:
                names.setdefault(note, []).append(repr(route.name))
    for (message, hint), named in names.items():
        shown = ", ".join(named[:NAMES_MAX]) + (f" and {len(named) - NAMES_MAX} more" if named[NAMES_MAX:] else "")
        yield f"route{'s' if named[1:] else ''} {shown}", message, hint
