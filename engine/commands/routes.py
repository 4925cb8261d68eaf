"""``engine routes``: what the routes make of a key, without a server and without AWS."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from engine.commands.base import config_option, examples, json_option, load, print_json, print_rich
from engine.errors import ConfigError, Problem

if TYPE_CHECKING:
    from engine.config import RouteSettings, Settings
    from engine.routing.explain import Fate

_A_MOMENT_MS = 1_763_890_000_123
"""The time in an example of a payload."""
_SAMPLES: dict[str, Any] = {
    "hash": {"field": "value"},
    "string": "value",
    "list": ["member"],
    "set": ["member"],
    "zset": [("member", 1.0)],
    "stream": [("1763890000123-0", ["field", "value"])],
}


@click.group()
def routes() -> None:
    """Ask what the routes make of a key."""


@routes.command(
    epilog=examples(
        "engine routes test cart:7",
        "engine routes test cart:7 --event del",
        "engine routes test cart:7 --event hset --json",
    )
)
@click.argument("key")
@click.option("--event", metavar="NAME", default="", help="After this event, as Redis names it: hset, del, expired …")
@config_option
@json_option
def test(key: str, event: str, config: str | None, as_json: bool) -> int:
    """Show what happens to KEY: which routes take it, why the others do not, and what a function is sent.

    Reads the settings alone: no server is asked, nothing is delivered. Mappings in Redis are not known here. Exits with
    0 if a route takes the key, 1 if none does.
    """
    from engine.routing.explain import fates_of

    settings = load(config, {}).settings
    raw, event = os.fsencode(key), event.strip()
    notes = _notes(settings, raw, event)
    taken_by_us = any(is_final for _, is_final in notes)
    fates = [] if taken_by_us else fates_of(_routes_of(settings), raw, event)
    found = [_as_json(fate, settings, raw, event) for fate in fates]
    is_taken = any(fate.is_taken for fate in fates)
    if as_json:
        print_json({"key": key, "event": event, "notes": [note for note, _ in notes], "routes": found})
    else:
        from engine.observe.explained import explained_view

        print_rich(explained_view(key, event, [note for note, _ in notes], found))
    return 0 if is_taken else 1


def _routes_of(settings: Settings) -> tuple[RouteSettings, ...]:
    from engine.settings.original import routes_of

    return routes_of(settings, {})


def _notes(settings: Settings, key: bytes, event: str) -> list[tuple[str, bool]]:
    """Return notes about the key, whatever its routes; for each, whether it means that no route sees the key."""
    from engine.capture.own_keys import is_own
    from engine.routing.explain import about_event
    from engine.routing.slices import parse_slice

    problem, hint = about_event(event) if event else ("", "")
    if problem:
        raise ConfigError([Problem("--event", problem, hint)])
    notes = []
    if is_own(key):
        notes.append(("the key is the engine's own: it is never delivered", True))
    prefix = settings.original.mapping_prefix
    if prefix and key.startswith(prefix.encode()):
        notes.append((f"the key begins with original.mapping_prefix ({prefix}): it is a mapping, not data", True))
    elif prefix:
        notes.append(("mappings in Redis are not considered here", False))
    if len(key) > settings.capture.key_bytes_max:
        notes.append((f"the key has {len(key):,} bytes: keys longer than capture.key_bytes_max are not captured", True))
    part = parse_slice(settings.capture.slice)
    if not part.owns(key):
        notes.append((f"the key is not in this host's slice ({part}): another engine delivers it", False))
    return notes


def _as_json(fate: Fate, settings: Settings, key: bytes, event: str) -> dict[str, Any]:
    route = fate.route
    return {
        "route": route.name,
        "function": route.function,
        "taken": fate.is_taken,
        "why": fate.why,
        "pattern": fate.pattern,
        "payload": _payload(route, settings, key, event, is_delete=fate.is_delete) if fate.is_taken else None,
    }


def _payload(route: RouteSettings, settings: Settings, key: bytes, event: str, *, is_delete: bool) -> Any:
    """Return what the function is sent, with a made-up value, built by the code that builds the real ones."""
    import msgspec

    from engine.delivery.lanes.batch import PayloadBuilder
    from engine.delivery.lanes.settle import DURABLE
    from engine.delivery.lanes.work import Cause
    from engine.delivery.reading.questions import Fetched
    from engine.delivery.reading.values import body_of
    from engine.redis.address import parse_url
    from engine.routing.absence import heard_events
    from engine.routing.explain import type_after

    name = event or heard_events(route.events)[0]
    kind = "none" if is_delete else type_after(name)
    body = None if is_delete else body_of(kind, _SAMPLES[kind])[0] if kind in _SAMPLES else '{"field":"value"}'
    expires_at_ms = _A_MOMENT_MS + 3_600_000 if route.include_expiry and not is_delete else 0
    version = _A_MOMENT_MS * 1_000
    value = Fetched(key, kind, body, "", version, expires_at_ms=expires_at_ms, is_taken_away=is_delete)
    database = route.databases[0] if route.databases else parse_url(settings.redis.url).database
    builder = PayloadBuilder(route, database, settings.delivery.payload_bytes_max)
    deadline_ms = _A_MOMENT_MS + settings.delivery.deadline_ms
    built = builder.build([(key, Cause(name, _A_MOMENT_MS, DURABLE))], [value], deadline_ms)
    return msgspec.json.decode(built.payload) if built.payload else None
