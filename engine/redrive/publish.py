"""Marks the keys of letters dirty in the running engine."""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.config import Settings
from engine.errors import EngineError, RedisError
from engine.marks.marker import Mark, Marker
from engine.marks.standing import nodes_known, read_standing
from engine.redis.address import parse_url
from engine.redis.cluster.nodes import Nodes, Slices
from engine.redis.connection import pack
from engine.redrive.letters import Letter
from engine.routing.assignment import is_by_bytes
from engine.routing.databases import databases_of
from engine.routing.events import REPAIR

NAME = "engine-redrive"
_AGE = (pack("INFO", "server"), pack("TIME"))
_UPTIME = re.compile(rb"^uptime_in_seconds:(\d+)", re.MULTILINE)
_NEVER_MS = 1 << 62


def _began_ms(server: object, time: object) -> int:
    """Return when the server started (Unix ms); if it does not say, that may have been just now."""
    uptime = _UPTIME.search(
        server.encode() if isinstance(server, str) else server if isinstance(server, bytes) else b""
    )
    if uptime is None or not isinstance(time, list):
        return _NEVER_MS
    # Uptimes are whole seconds.
    return (int(time[0]) - int(uptime[1]) + 1) * 1_000


class Publisher:
    """Connects at the first letter. ``problem`` is why nothing more can be sent, None while something can."""

    def __init__(self, settings: Settings) -> None:
        self.problem: EngineError | None = None
        self._settings = settings
        self._databases = databases_of(settings.redis, parse_url(settings.redis.url).database)
        self._nodes: Nodes | None = None
        self._marker: Marker | None = None

    def send(self, letters: Sequence[Letter]) -> list[bool]:
        """Mark these letters' keys; return which of them the engine can't lose any more."""
        try:
            marker = self._ready()
            sent = marker.mark([Mark(self._inside(letter), letter.event) for letter in letters])
        except RedisError as error:
            self.problem = error
            return [False] * len(letters)
        self.problem = marker.problem
        return sent

    def orphans(self, letters: Sequence[Letter]) -> list[bool]:
        """Return which letters hold a value that the server no longer has, and may have lost.

        Their keys are gone, and their changes were heard before the server started. If the cache came back empty, the
        engine would deliver a delete, and the letter, which may be the value's only copy, would be removed.
        """
        values = [index for index, letter in enumerate(letters) if letter.event == REPAIR]
        found = [False] * len(letters)
        try:
            if not values:
                return found
            self._ready()
            assert self._nodes is not None
            keys = [self._inside(letters[index]) for index in values]
            exist = self._nodes.ask(
                "report whether keys exist", [(key, self._nodes.about("EXISTS", key)) for key in keys]
            )
            gone = [index for index, is_there in zip(values, exist, strict=True) if not is_there]
            for node, places in self._nodes.by_owner([self._inside(letters[index]) for index in gone]):
                began_ms = _began_ms(*self._nodes.pipeline(node, _AGE))
                for index in (gone[place] for place in places):
                    found[index] = letters[index].captured_ms <= began_ms
        except RedisError as error:
            self.problem = error
            return [False] * len(letters)
        return found

    def _inside(self, letter: Letter) -> bytes:
        """Return the engine's internal name of the letter's key."""
        databases = self._databases
        return databases.inside(databases.home if letter.db is None else letter.db, letter.key)

    def _ready(self) -> Marker:
        if self._marker is None:
            status_file = self._settings.supervision.status_file
            self._nodes = Nodes(self._settings.redis, NAME, known=nodes_known(status_file))
            slices = Slices(self._nodes, by_bytes=is_by_bytes(self._settings))
            skips = any(route.skip_unchanged for route in self._settings.routes)
            standing = lambda: read_standing(status_file)  # noqa: E731
            self._marker = Marker(self._nodes, standing, slices, repairs_deliver=not skips)
        return self._marker

    def close(self) -> None:
        """Close the connections."""
        if self._nodes is not None:
            self._nodes.close()
            self._nodes = self._marker = None
