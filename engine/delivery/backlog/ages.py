"""About since when keys of a route have waited on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from engine.delivery.backlog.rows import BacklogRow

ROWS_LOOKED_AT = 1_000
"""How many rows are looked at, for each route, in an existing file: all of them could be many."""
_OLDEST = (
    "SELECT min(captured_ms) FROM (SELECT captured_ms, reason FROM dirty WHERE route = ? LIMIT ?) WHERE reason = ''"
)


class Ages:
    """For each route, the oldest change that was put on disk since there was none; set-aside keys apart.

    Rows are not removed in order of age, so the oldest moment counts until the last row is removed.
    """

    def __init__(self, connection: sqlite3.Connection | None = None, routes: Iterable[str] = ()) -> None:
        self._oldest_ms: dict[str, int] = {}
        if connection is None:
            return
        for route in routes:
            (oldest_ms,) = connection.execute(_OLDEST, (route, ROWS_LOOKED_AT)).fetchone()
            if isinstance(oldest_ms, int):
                self._oldest_ms[route] = oldest_ms

    def put(self, route: str, rows: Iterable[BacklogRow]) -> None:
        """Note that these rows are in the file now."""
        oldest_ms = min((row.captured_ms for row in rows if not row.reason), default=0)
        if oldest_ms:
            self._oldest_ms[route] = min(self._oldest_ms.get(route, oldest_ms), oldest_ms)

    def keep(self, routes: Iterable[str]) -> None:
        """Note that only these routes have rows."""
        if self._oldest_ms:
            left = set(routes)
            self._oldest_ms = {route: ms for route, ms in self._oldest_ms.items() if route in left}

    def of(self, route: str) -> int:
        """Return since when (Unix ms) the oldest key has waited; 0 if none does."""
        return self._oldest_ms.get(route, 0)
