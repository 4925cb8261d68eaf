"""Dirty keys that wait on disk: of a route whose function fails or is slow, each key once.

One file per invoker. A put is durable when it returns; a removal is not (a key that comes back is delivered twice,
which is harmless), so removals are buffered. Nothing here raises if a disk is full, broken or damaged: a put says why
it refused, and the caller still owns its keys.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path

from engine.delivery.backlog.ages import Ages
from engine.delivery.backlog.aside import Aside
from engine.delivery.backlog.file import BacklogFile
from engine.delivery.backlog.rows import (
    COUNT,
    DELETE,
    EARLIER,
    HELD,
    HELD_AT_ONCE,
    INSERT,
    UPDATE,
    BacklogRow,
    NotABacklog,
    rows_of,
)
from engine.delivery.backlog.taking import Taking, take
from engine.delivery.backlog.walk import Walk

__all__ = ["Backlog", "BacklogRow"]

REMOVED_KEYS_MAX = 50_000
REMOVED_KEYS_LIMIT = 100_000
"""Removals kept while the disk refuses them; past it, keys that were delivered are delivered again."""
REMOVED_BYTES_MAX = 16 << 20
OF_SEVERAL = "-databases"
"""In the name of a file whose keys are those of several databases."""
PAUSE_MS = 1_000
"""How long reads leave a failed disk alone; puts always try."""


class Backlog:
    """One invoker's keys on disk, by route. Any thread may use it, but only one at a time.

    ``invoker`` counts from 0; ``bytes_max`` bounds the file together with its log. ``of_several`` if keys include their
    database: the two kinds of key are never in one file.
    """

    def __init__(self, folder: str, invoker: int, invokers: int, bytes_max: int, *, of_several: bool = False) -> None:
        assert 0 <= invoker < invokers
        self._file = BacklogFile(path_of(folder, invoker, invokers, of_several=of_several), bytes_max)
        self.damaged: list[str] = []
        """Damaged files that were moved aside: their keys are to be found by a repair. See `repaired`."""
        self._counts: dict[str, int] = {}
        self._walks: defaultdict[str, Walk] = defaultdict(Walk)
        self._fresh_walks: defaultdict[str, Walk] = defaultdict(Walk)
        """The walks that skip what has failed: they must not advance the others."""
        self._aside = Aside()
        self.ages = Ages()
        self._removed: defaultdict[str, set[bytes]] = defaultdict(set)
        self._removed_keys = self._removed_bytes = 0
        self._flush_at = REMOVED_KEYS_MAX
        self._paused_until_ms = 0
        self._is_unread = False
        """Whether there is a file that could not be opened yet: `take` tries again."""

    def open(self, due_ms_max: int = 0) -> str:
        """Open the file if there is one; return "", or why it can't be used.

        A row that is due later than ``due_ms_max`` (Unix time, 0 for no limit) is due now: the host's clock was set
        back since it was written.
        """
        try:
            self.damaged = [str(path) for path in _damaged(self._file.path)]
            if self._connected() is not None and due_ms_max:
                with self._file.transaction(durable=False) as connection:
                    connection.execute(EARLIER, (due_ms_max,))
        except (sqlite3.Error, OSError) as error:
            reason = self._failed(error)
            self._is_unread = bool(reason)
            return reason
        return ""

    def repaired(self) -> None:
        """Note that the gap of the damaged files is durably declared: they are not listed again."""
        for name in self.damaged:
            with suppress(OSError):
                Path(name).rename(f"{name}.repaired")
        self.damaged = []

    def put(self, route: str, rows: Sequence[BacklogRow], *, replaces: bool = True) -> str:
        """Keep these rows; return "" when they are durable, else why none of them is kept.

        A row replaces that of its key, except that the oldest ``captured_ms`` stays; without ``replaces`` the key's own
        row stays as it is.
        """
        # Once more for a file that was damaged: it is out of the way then.
        for _ in range(2):
            try:
                self._put(route, rows, replaces)
                return ""
            except (sqlite3.Error, OSError) as error:
                if reason := self._failed(error):
                    return reason
        return f"the backlog {self._file.path} was damaged twice"

    def take(
        self, route: str, count: int, now_ms: int, skip: Container[bytes], *, is_fresh: bool = False
    ) -> list[BacklogRow]:
        """Return up to ``count`` rows that are due and not in ``skip``, going round in the order of keys; they stay.

        ``is_fresh``: only those that have not failed before.
        One call walks a bounded part: it may return fewer than there are, and `next_due_ms` is then 0.
        """
        taking = Taking(route, count, now_ms, skip, self._removed.get(route, ()), is_fresh)
        if not (self.count(route) or self._is_unread) or 0 < self._paused_until_ms - now_ms <= PAUSE_MS:
            return taking.rows
        try:
            connection = self._connected()
            if connection is not None and self.count(route):
                walks = self._fresh_walks if is_fresh else self._walks
                take(connection, taking, walks[route], sum(self._counts.values()))
            self._paused_until_ms = 0
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
            self._paused_until_ms = now_ms + PAUSE_MS
        return taking.rows

    def remove(self, route: str, keys: Iterable[bytes], known: Sequence[bytes] = ()) -> None:
        """Forget these settled keys: those that are here, and those ``known`` to be.

        Buffered until `flush`, a `put`, or when there are many.
        """
        if not self.count(route):
            return
        removed, out, fresh_out = self._removed[route], self._walks[route].out, self._fresh_walks[route].out
        fresh = [key for key in dict.fromkeys(keys) if key not in removed]
        asked = [key for key in fresh if key not in out]
        for key in (*known, *(key for key in fresh if key in out), *self._held(route, asked)):
            if self._removed_keys >= REMOVED_KEYS_LIMIT:
                break
            if key not in removed:
                out.pop(key, None)
                fresh_out.pop(key, None)
                self._aside.forget(route, key)
                removed.add(key)
                self._removed_keys += 1
                self._removed_bytes += len(key)
        if self._removed_keys >= self._flush_at or self._removed_bytes >= REMOVED_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Remove from the file what is buffered; if the disk refuses, it stays buffered."""
        if not self._removed_keys:
            return
        try:
            if self._connected() is None:
                self._forget()
                return
            with self._file.transaction(durable=False) as connection:
                counts = self._remove_buffered(connection)
                _write_counts(connection, self._counts, counts)
            self._committed(counts)
            if not any(counts.values()):
                self._file.shrink()
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
            self._flush_at = self._removed_keys + REMOVED_KEYS_MAX

    def count(self, route: str) -> int:
        """Return how many keys of a route are there."""
        if route not in self._counts:
            return 0
        # `max`: what was removed while the file could not be read was not looked up.
        return max(0, self._counts[route] - len(self._removed.get(route, ())))

    def next_due_ms(self, route: str) -> int | None:
        """Return when `take` may have something: 0 for now, a time (Unix ms), or None if there is nothing."""
        if self._is_unread:
            return self._paused_until_ms
        if not self.count(route):
            return None
        return max(self._walks[route].next_due_ms(), self._paused_until_ms)

    def routes(self) -> dict[str, int]:
        """Return the routes that have keys here, and how many."""
        return {route: count for route in self._counts if (count := self.count(route))}

    def keys_set_aside(self, route: str | None = None) -> int:
        """Return how many keys are here because they keep failing by themselves: all, or those of one route."""
        return len(self._aside) if route is None else self._aside.count(route)

    def rows(self, route: str) -> Iterator[list[BacklogRow]]:
        """Yield all rows of a route, some thousands at a time; raises `sqlite3.Error` if the disk refuses."""
        try:
            connection = self._connected()
            if connection is not None:
                yield from rows_of(connection, route)
        except (sqlite3.Error, OSError) as error:
            # A damaged file is out of the way then, and listed.
            if reason := self._failed(error):
                raise sqlite3.OperationalError(reason) from error

    def close(self) -> None:
        """Flush and close the file."""
        self.flush()
        self._file.close()

    def _connected(self, *, make: bool = False) -> sqlite3.Connection | None:
        if self._file.connection is None and (make or self._file.exists()):
            connection = self._file.connect()
            counts = connection.execute("SELECT route, keys FROM counts").fetchall()
            if not all(route.__class__ is str and keys.__class__ is int for route, keys in counts):
                raise NotABacklog("its counts are damaged")
            self._counts = dict(counts)
            self._aside = Aside(connection)
            self.ages = Ages(connection, self._counts)
            for route, removed in self._removed.items():
                for key in removed:
                    self._aside.forget(route, key)
        self._is_unread = False
        return self._file.connection

    def _failed(self, error: Exception) -> str:
        reason, moved = self._file.failed(error)
        if not moved:
            return reason
        self.damaged.append(moved)
        self._forget()
        return ""

    def _forget(self) -> None:
        self._walks.clear()
        self._fresh_walks.clear()
        self._aside = Aside()
        self.ages = Ages()
        self._committed({})

    def _put(self, route: str, rows: Sequence[BacklogRow], replaces: bool) -> None:
        if not rows:
            return
        self._connected(make=True)
        # In the order of keys: rows that share a page are written together.
        values = [
            (row.event, row.captured_ms, row.due_ms, row.attempts, route, row.key, row.reason, row.together)
            for row in sorted(rows, key=attrgetter("key"))
        ]
        with self._file.transaction(durable=True) as connection:
            counts = self._remove_buffered(connection)
            added = connection.executemany(INSERT, values).rowcount
            if added < len(values) and replaces:
                connection.executemany(UPDATE, values)
            counts[route] = counts.get(route, 0) + added
            _write_counts(connection, self._counts, counts)
        self._committed(counts)
        for walks in (self._walks, self._fresh_walks):
            walks[route].put((row.key for row in rows), min(row.due_ms for row in rows))
        self._aside.put(route, rows if replaces else [row for row in rows if row.reason])
        self.ages.put(route, rows)

    def _remove_buffered(self, connection: sqlite3.Connection) -> dict[str, int]:
        """Delete what is buffered; return the counts that this leaves. Nothing is forgotten before the commit."""
        counts = dict(self._counts)
        for route, keys in self._removed.items():
            if keys:
                gone = connection.executemany(DELETE, [(route, key) for key in sorted(keys)]).rowcount
                counts[route] = counts.get(route, 0) - gone
        return counts

    def _committed(self, counts: dict[str, int]) -> None:
        self._counts = counts
        self.ages.keep(route for route, keys in counts.items() if keys > 0)
        self._removed.clear()
        self._removed_keys = self._removed_bytes = 0
        self._flush_at = REMOVED_KEYS_MAX

    def _held(self, route: str, keys: Sequence[bytes]) -> Iterable[bytes]:
        """Return those of these keys that the file has; all of them where that can't be read: it may."""
        held: list[bytes] = []
        try:
            connection = self._connected()
            if connection is None:
                return held
            for start in range(0, len(keys), HELD_AT_ONCE):
                some = keys[start : start + HELD_AT_ONCE]
                # Always the same number of keys, so that the statement is compiled once.
                some = [*some, *[some[0]] * (HELD_AT_ONCE - len(some))]
                held += [key for (key,) in connection.execute(HELD, (route, *some))]
        except (sqlite3.Error, OSError) as error:
            return keys if self._failed(error) else ()
        return held


def _write_counts(connection: sqlite3.Connection, old: dict[str, int], new: dict[str, int]) -> None:
    changed = [(route, count) for route, count in new.items() if old.get(route) != count]
    if changed:
        connection.executemany(COUNT, changed)


def path_of(folder: str, invoker: int, invokers: int, *, of_several: bool = False) -> Path:
    """Return where an invoker has its file."""
    return Path(folder) / f"invoker-{invoker + 1}-of-{invokers}{OF_SEVERAL if of_several else ''}.sqlite"


def _damaged(path: Path) -> list[Path]:
    return sorted(
        found
        for found in path.parent.glob(f"{path.name}.damaged-*")
        if found.name.removeprefix(f"{path.name}.damaged-").isdecimal()
    )
