"""Marks the keys of letters dirty in the running engine."""

from __future__ import annotations

from collections.abc import Sequence

from engine.config import Settings
from engine.errors import EngineError, RedisError
from engine.marks.marker import Mark, Marker
from engine.marks.standing import read_standing
from engine.redis.connection import RespConnection
from engine.redrive.letters import Letter

NAME = "engine-redrive"


class Publisher:
    """Connects at the first letter. ``problem`` is why nothing more can be sent, None while something can."""

    def __init__(self, settings: Settings) -> None:
        self.problem: EngineError | None = None
        self._settings = settings
        self._connection: RespConnection | None = None
        self._marker: Marker | None = None

    def send(self, letters: Sequence[Letter]) -> list[bool]:
        """Mark these letters' keys; return which of them the engine can't lose any more."""
        try:
            marker = self._ready()
            sent = marker.mark([Mark(letter.key, letter.event) for letter in letters])
        except RedisError as error:
            self.problem = error
            return [False] * len(letters)
        self.problem = marker.problem
        return sent

    def _ready(self) -> Marker:
        if self._marker is None:
            connection = self._connection = RespConnection.open(self._settings.redis, name=NAME, protocol=2)
            status_file = self._settings.supervision.status_file
            self._marker = Marker(connection, connection.address.database, lambda: read_standing(status_file))
        return self._marker

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = self._marker = None
