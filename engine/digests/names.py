"""The names of keys that a scan found, on disk: a key whose name is here, but which is no longer found, was deleted.

A name is durable before its key is marked dirty, and again before a value of it is delivered, so whatever a destination
may hold is known here. It is removed once its deletion is settled, unless its key was found again meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from engine.errors import EngineError
from engine.observe.logs import get_logger
from engine.routing.nodes import NODES_MAX

log = get_logger(__name__)

_TABLES = """
CREATE TABLE IF NOT EXISTS names (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gone (key BLOB PRIMARY KEY, pass INTEGER NOT NULL) WITHOUT ROWID;
"""
_CACHE_KIB = 16_384
_ASKED_AT_ONCE = 500


class NamesBroken(EngineError):
    """The names can't be kept."""


def path_of(folder: str) -> Path:
    """Return the file of all keys of a server or cluster: a name stays when another node takes over its key."""
    return Path(folder) / "names.sqlite"


class Names:
    """One hold of the names that all processes share. ``node`` is the number of a feed's node, None for an invoker.

    Raises `NamesBroken` for any failure of the disk; a damaged file is moved aside, and reported.
    """

    def __init__(self, path: Path, node: int | None = 0) -> None:
        self.path = path
        self._node = node
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return self._connect()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                aside = f"{self.path}.damaged"
                self.path.replace(aside)
                for suffix in ("-wal", "-shm"):
                    Path(f"{self.path}{suffix}").unlink(missing_ok=True)
                log.error("names_lost", moved_to=aside, hint="what was deleted since the last pass stays: engine audit")
                return self._connect()
        except (sqlite3.Error, OSError) as error:
            raise self._broken(error) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=5.0)
        try:
            # Each commit waits for the disk: what it writes is new, and rare once all keys are known.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            connection.executescript(_TABLES)
            if self._node is not None:
                # What a predecessor found gone, and what is not known to be settled.
                connection.execute("DELETE FROM gone WHERE pass % ? = ?", (NODES_MAX, self._node))
        except BaseException:
            connection.close()
            raise
        return connection

    def _broken(self, error: Exception) -> NamesBroken:
        return NamesBroken(f"the names of keys in {self.path} can't be kept: {error}", hint="see the disk")

    def found(self, keys: Sequence[bytes]) -> None:
        """Keep the names of keys that were found; durable when it returns."""
        rows = [(key,) for key in keys]
        self._write("INSERT OR IGNORE INTO names VALUES (?)", rows)
        if self._number("SELECT EXISTS (SELECT 1 FROM gone)"):
            self._write("DELETE FROM gone WHERE key = ?", rows)

    def keep(self, keys: Sequence[bytes]) -> None:
        """Know these from now on, whatever a pass did not find: their values are about to be delivered.

        Durable when it returns. Most are known already, and then nothing is written.
        """
        known, gone = 0, self._number("SELECT EXISTS (SELECT 1 FROM gone)")
        for first in range(0, 0 if gone else len(keys), _ASKED_AT_ONCE):
            some = keys[first : first + _ASKED_AT_ONCE]
            known += self._number(f"SELECT COUNT(*) FROM names WHERE key IN ({','.join('?' * len(some))})", tuple(some))
        if known < len(keys):
            self.found(keys)

    def after(self, key: bytes | None, count: int) -> list[bytes]:
        """Return the next names after this one, in their order; None for the first."""
        sql = "SELECT key FROM names WHERE key > ? ORDER BY key LIMIT ?"
        if key is None:
            return self._read("SELECT key FROM names ORDER BY key LIMIT ?", (count,))
        return self._read(sql, (key, count))

    def count(self) -> int:
        """Return how many names there are, of all nodes."""
        return self._number("SELECT COUNT(*) FROM names")

    def note_gone(self, keys: Sequence[bytes], number: int) -> None:
        """Take in that a pass has not found these."""
        self._write("INSERT OR REPLACE INTO gone VALUES (?, ?)", [(key, number) for key in keys])

    def count_gone(self, number: int) -> int:
        """Return how many keys a pass has not found."""
        return self._number("SELECT COUNT(*) FROM gone WHERE pass = ?", (number,))

    def gone_after(self, key: bytes | None, count: int, number: int) -> list[bytes]:
        """Return the next names after this one of those that a pass has not found."""
        sql = "SELECT key FROM gone WHERE pass = ? AND key > ? ORDER BY key LIMIT ?"
        if key is None:
            return self._read("SELECT key FROM gone WHERE pass = ? ORDER BY key LIMIT ?", (number, count))
        return self._read(sql, (number, key, count))

    def spare(self, number: int) -> None:
        """Keep what this pass has not found: nothing is done about it."""
        self._write("DELETE FROM gone WHERE pass = ?", [(number,)])

    def forget(self, number: int) -> None:
        """Forget what this pass has not found, and no later one either: its deletion is settled."""
        try:
            with self._connection as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("DELETE FROM names WHERE key IN (SELECT key FROM gone WHERE pass = ?)", (number,))
                connection.execute("DELETE FROM gone WHERE pass = ?", (number,))
        except (sqlite3.Error, OSError) as error:
            raise self._broken(error) from error

    def close(self) -> None:
        """Close the file."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def _write(self, sql: str, rows: Iterable[tuple[object, ...]]) -> None:
        try:
            with self._connection as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(sql, rows)
        except (sqlite3.Error, OSError) as error:
            raise self._broken(error) from error

    def _read(self, sql: str, values: tuple[object, ...]) -> list[bytes]:
        try:
            return [key for (key,) in self._connection.execute(sql, values)]
        except (sqlite3.Error, OSError) as error:
            raise self._broken(error) from error

    def _number(self, sql: str, values: tuple[object, ...] = ()) -> int:
        try:
            return int(self._connection.execute(sql, values).fetchone()[0])
        except (sqlite3.Error, OSError) as error:
            raise self._broken(error) from error
