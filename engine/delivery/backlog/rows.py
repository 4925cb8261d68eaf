"""What a row of a backlog is, and the queries on its table.  (pure)"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec

SCHEMA = """
CREATE TABLE dirty(
    route TEXT, key BLOB, event TEXT, captured_ms INTEGER, due_ms INTEGER, attempts INTEGER,
    reason TEXT NOT NULL DEFAULT '', together INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(route, key)
) WITHOUT ROWID;
CREATE TABLE counts(route TEXT PRIMARY KEY, keys INTEGER) WITHOUT ROWID;
CREATE INDEX aside ON dirty(route, key) WHERE reason <> '';
"""
FROM_VERSION_1 = """
ALTER TABLE dirty ADD COLUMN reason TEXT NOT NULL DEFAULT '';
ALTER TABLE dirty ADD COLUMN together INTEGER NOT NULL DEFAULT 0;
CREATE INDEX aside ON dirty(route, key) WHERE reason <> '';
"""
# Text sorts before every blob, so this sorts before the empty key, which is a legal key.
BEGINNING = ""
INSERT = (
    "INSERT OR IGNORE INTO dirty(event, captured_ms, due_ms, attempts, route, key, reason, together)"
    " VALUES(?, ?, ?, ?, ?, ?, ?, ?)"
)
# An unchanged row is not written, because its page would be; under load most rows are unchanged.
UPDATE = (
    "UPDATE dirty SET event = ?1, captured_ms = min(captured_ms, ?2), due_ms = ?3, attempts = ?4, reason = ?7,"
    " together = ?8"
    " WHERE route = ?5 AND key = ?6"
    " AND (event <> ?1 OR captured_ms > ?2 OR due_ms <> ?3 OR attempts <> ?4 OR reason <> ?7"
    " OR together <> ?8)"
)
EARLIER = "UPDATE dirty SET due_ms = 0 WHERE due_ms > ?"
DELETE = "DELETE FROM dirty WHERE route = ? AND key = ?"
HELD_AT_ONCE = 250
HELD = f"SELECT key FROM dirty WHERE route = ? AND key IN ({', '.join('?' * HELD_AT_ONCE)})"
COUNT = "INSERT INTO counts VALUES(?, ?) ON CONFLICT(route) DO UPDATE SET keys = excluded.keys"
RANGE = "route = ? AND key > ?"
SLICE = (
    "SELECT max(key), min(due_ms) FILTER (WHERE due_ms > ?), count(*)"
    " FROM (SELECT key, due_ms FROM dirty WHERE {} ORDER BY key LIMIT ?)"
)
DUE = (
    "SELECT key, event, captured_ms, due_ms, attempts, reason, together FROM dirty"
    " WHERE route = ? AND key > ? AND key <= ? AND due_ms <= ? ORDER BY key"
)
SOME = (
    "SELECT key, event, captured_ms, due_ms, attempts, reason, together FROM dirty"
    " WHERE route = ? AND key > ? ORDER BY key LIMIT ?"
)
ASIDE = "SELECT route, key FROM dirty WHERE reason <> '' LIMIT ?"
ROWS_READ = 5_000
_TYPES = (bytes, str, int, int, int, str, int)


class NotABacklog(sqlite3.DatabaseError):
    """The file's content is not a backlog's."""


class BacklogRow(msgspec.Struct, gc=False):
    """A dirty key on disk: its newest event, when its oldest change was captured, and the earliest time to deliver it.

    Both times are Unix ms; ``due_ms`` 0 is at once. ``attempts`` counts its failed deliveries; ``reason`` says why they
    failed, if the key keeps failing by itself. ``together`` is how many keys a batch with it may have, if it was cut
    out of one that failed; 0 for any.
    """

    key: bytes
    event: str
    captured_ms: int
    due_ms: int = 0
    attempts: int = 0
    reason: str = ""
    together: int = 0


def row_of(fields: tuple[Any, ...]) -> BacklogRow:
    """Return the row in what `DUE` or `SOME` gave; raise `NotABacklog`."""
    # SQLite keeps no checksums: what is damaged may still look like a row.
    if tuple(map(type, fields)) != _TYPES:
        raise NotABacklog("a row is damaged")
    return BacklogRow(*fields)


def rows_of(connection: sqlite3.Connection, route: str) -> Iterator[list[BacklogRow]]:
    """Yield all rows of a route, some thousands at a time, in the order of keys."""
    after: str | bytes = BEGINNING
    while rows := [row_of(fields) for fields in connection.execute(SOME, (route, after, ROWS_READ))]:
        yield rows
        after = rows[-1].key
