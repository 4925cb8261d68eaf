"""Which keys of a backlog are there because they keep failing by themselves."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from engine.delivery.backlog.rows import ASIDE, BacklogRow

KEYS_MAX = 100_000
"""Beyond this, they are no longer told apart: the count stays there."""


class Aside:
    """Those of one file; read from it once, and kept by what is written."""

    def __init__(self, connection: sqlite3.Connection | None = None) -> None:
        rows = connection.execute(ASIDE, (KEYS_MAX,)) if connection is not None else ()
        self._keys: set[tuple[str, bytes]] = {(route, key) for route, key in rows}

    def __len__(self) -> int:
        return len(self._keys)

    def count(self, route: str) -> int:
        """Return how many of them are a route's."""
        return sum(1 for name, _ in self._keys if name == route)

    def put(self, route: str, rows: Iterable[BacklogRow]) -> None:
        """Note that these rows are in the file now."""
        for row in rows:
            if row.reason and len(self._keys) < KEYS_MAX:
                self._keys.add((route, row.key))
            elif self._keys and not row.reason:
                self._keys.discard((route, row.key))

    def forget(self, route: str, key: bytes) -> None:
        """Note that this row is removed."""
        if self._keys:
            self._keys.discard((route, key))
