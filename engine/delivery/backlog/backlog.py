"""Dirty keys that wait on disk: of a route whose function fails or is slow, each key once.

One file per invoker. A put is durable when it returns; a removal is not (a key that comes back is delivered twice,
which is harmless), so removals are buffered. Nothing here raises for a disk that is full, broken or damaged: a put says
why it refused, and the caller still owns its keys.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from engine.delivery.backlog.file import PAGE_BYTES, BacklogFile
from engine.delivery.backlog.rows import (
    BEGINNING,
    COUNT,
    DELETE,
    DUE,
    EARLIER,
    HELD,
    HELD_AT_ONCE,
    INSERT,
    RANGE,
    SLICE,
    UPDATE,
    BacklogRow,
    NotABacklog,
    row_of,
    rows_of,
)
from engine.delivery.backlog.walk import Walk

__all__ = ["Backlog", "BacklogRow"]

REMOVED_KEYS_MAX = 50_000
REMOVED_KEYS_LIMIT = 100_000
"""Removals kept while the disk refuses them; past it, keys that were delivered are delivered again."""
REMOVED_BYTES_MAX = 16 << 20
TAKEN_BYTES_MAX = 16 << 20
WALKED_ROWS_MAX = 100_000
WALKED_BYTES_MAX = 64 << 20
"""What one `Backlog.take` walks at most; the next one goes on there."""
SLICE_ROWS_MIN, SLICE_ROWS_MAX = 256, 8_192
PAUSE_MS = 1_000
"""How long a disk that failed is left alone by reads; puts always try."""


@dataclass(slots=True)
class _Taking:
    """What one call of `Backlog.take` wants, and has so far."""

    route: str
    count: int
    now_ms: int
    skip: Container[bytes]
    rows: list[BacklogRow] = field(default_factory=list)
    taken: set[bytes] = field(default_factory=set)
    key_bytes: int = 0

    def is_full(self) -> bool:
        return len(self.rows) >= self.count or self.key_bytes >= TAKEN_BYTES_MAX


class Backlog:
    """One invoker's keys on disk, by route. Any thread may use it, but only one at a time.

    ``invoker`` counts from 0; ``bytes_max`` bounds the file together with its log.
    """

    def __init__(self, folder: str, invoker: int, invokers: int, bytes_max: int) -> None:
        assert 0 <= invoker < invokers
        self._file = BacklogFile(path_of(folder, invoker, invokers), bytes_max)
        self.damaged: list[str] = []
        """Damaged files that were moved aside: their keys are to be found by a repair. See `repaired`."""
        self._counts: dict[str, int] = {}
        self._walks: defaultdict[str, Walk] = defaultdict(Walk)
        self._removed: defaultdict[str, set[bytes]] = defaultdict(set)
        self._removed_keys = self._removed_bytes = 0
        self._flush_at = REMOVED_KEYS_MAX
        self._paused_until_ms = 0
        self._is_unread = False
        """Whether a file is there that could not be opened yet: `take` tries again."""

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
        """Take in that the gap of the damaged files is durably declared: they are not listed again."""
        for name in self.damaged:
            with suppress(OSError):
                Path(name).rename(f"{name}.repaired")
        self.damaged = []

    def put(self, route: str, rows: Sequence[BacklogRow], *, replaces: bool = True) -> str:
        """Keep these rows; return "" when they are durable, else why none of them is kept.

        A row replaces that of its key, but for ``captured_ms``, of which the oldest stays; without ``replaces`` the
        key's own row stays as it is.
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

    def take(self, route: str, count: int, now_ms: int, skip: Container[bytes]) -> list[BacklogRow]:
        """Return up to ``count`` rows that are due and not in ``skip``, going round in the order of keys; they stay.

        One call walks a bounded part: fewer may come than there are, and `next_due_ms` is 0 then.
        """
        taking = _Taking(route, count, now_ms, skip)
        if not (self.count(route) or self._is_unread) or 0 < self._paused_until_ms - now_ms <= PAUSE_MS:
            return taking.rows
        try:
            connection = self._connected()
            if connection is not None and self.count(route):
                self._walk(connection, taking)
            self._paused_until_ms = 0
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
            self._paused_until_ms = now_ms + PAUSE_MS
        return taking.rows

    def remove(self, route: str, keys: Iterable[bytes], known: Sequence[bytes] = ()) -> None:
        """Forget these keys, which are settled: those that are here, and those ``known`` to be.

        Buffered until `flush`, a `put`, or when there are many.
        """
        if not self.count(route):
            return
        removed, out = self._removed[route], self._walks[route].out
        fresh = [key for key in dict.fromkeys(keys) if key not in removed]
        asked = [key for key in fresh if key not in out]
        for key in (*known, *(key for key in fresh if key in out), *self._held(route, asked)):
            if self._removed_keys >= REMOVED_KEYS_LIMIT:
                break
            if key not in removed:
                out.pop(key, None)
                removed.add(key)
                self._removed_keys += 1
                self._removed_bytes += len(key)
        if self._removed_keys >= self._flush_at or self._removed_bytes >= REMOVED_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Remove from the file what is buffered; where the disk refuses, it stays buffered."""
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
        # `max`: what was removed while the file could not be read was not looked up.
        return max(0, self._counts.get(route, 0) - len(self._removed.get(route, ())))

    def next_due_ms(self, route: str) -> int | None:
        """Return when `take` may have something: 0 for now, a time (Unix ms), or None where nothing is there."""
        if self._is_unread:
            return self._paused_until_ms
        if not self.count(route):
            return None
        return max(self._walks[route].next_due_ms(), self._paused_until_ms)

    def routes(self) -> dict[str, int]:
        """Return the routes that have keys here, and how many."""
        return {route: count for route in self._counts if (count := self.count(route))}

    def rows(self, route: str) -> Iterator[list[BacklogRow]]:
        """Yield all rows of a route, some thousands at a time; raises `sqlite3.Error` where the disk refuses."""
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
        self._committed({})

    def _put(self, route: str, rows: Sequence[BacklogRow], replaces: bool) -> None:
        if not rows:
            return
        self._connected(make=True)
        # In the order of keys: rows that share a page are written together.
        values = [
            (row.event, row.captured_ms, row.due_ms, row.attempts, route, row.key)
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
        self._walks[route].put((row.key for row in rows), min(row.due_ms for row in rows))

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

    def _walk(self, connection: sqlite3.Connection, taking: _Taking) -> None:
        walk = self._walks[taking.route]
        walk.looked_ms = taking.now_ms
        if not _goes_on(walk, taking):
            return
        left = self._rows_max(connection)
        size = min(SLICE_ROWS_MIN, left)
        while left > 0 and not taking.is_full() and _goes_on(walk, taking):
            size = min(max(size, taking.count - len(taking.rows)), SLICE_ROWS_MAX, left)
            left -= 1 + self._walk_slice(connection, taking, walk, size)
            size *= 2

    def _rows_max(self, connection: sqlite3.Connection) -> int:
        """Return how many rows one call may walk: fewer where keys are long."""
        pages, free = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count")
        )
        row_bytes = (pages - free) * PAGE_BYTES // max(1, sum(self._counts.values()))
        return max(1, min(WALKED_ROWS_MAX, WALKED_BYTES_MAX // max(1, row_bytes)))

    def _walk_slice(self, connection: sqlite3.Connection, taking: _Taking, walk: Walk, size: int) -> int:
        """Walk the next ``size`` rows, in C as far as nothing in them is due; return how many there were."""
        after = BEGINNING if walk.after is None else walk.after
        place: tuple[str | bytes, ...] = (taking.route, after)
        where = RANGE
        if walk.is_wrapped and walk.until is not None:
            place, where = (*place, walk.until), f"{RANGE} AND key <= ?"
        answer: tuple[Any, int | None, int] = connection.execute(
            SLICE.format(where), (taking.now_ms, *place, size)
        ).fetchone()
        last, later_ms, walked = answer
        if later_ms is not None:
            walk.found_later(later_ms)
        if walked:
            if not isinstance(last, bytes):
                raise NotABacklog("a key is no blob")
            due = connection.execute(DUE, (taking.route, after, last, taking.now_ms))
            with closing(due):
                if not self._pick(map(row_of, due), taking, walk):
                    return walked
            walk.after = last
        if walked < size:
            walk.reach_the_end()
        return walked

    def _pick(self, due: Iterable[BacklogRow], taking: _Taking, walk: Walk) -> bool:
        """Take of these rows what is free; return False where there is no room for all, and stay there."""
        removed = self._removed.get(taking.route, ())
        for row in due:
            key = row.key
            if key in removed:
                continue
            if key not in taking.skip and key not in taking.taken:
                if taking.is_full():
                    return False
                taking.rows.append(row)
                taking.taken.add(key)
                taking.key_bytes += len(key)
            walk.found_due(key)
            walk.after = key
        return True


def _goes_on(walk: Walk, taking: _Taking) -> bool:
    """Tell whether there is more to walk: the rest of this lap, or another where it would find something."""
    if walk.is_over and walk.finds_more(taking.now_ms, taking.skip, taking.taken):
        walk.begin()
    return not walk.is_over


def _write_counts(connection: sqlite3.Connection, old: dict[str, int], new: dict[str, int]) -> None:
    changed = [(route, count) for route, count in new.items() if old.get(route) != count]
    if changed:
        connection.executemany(COUNT, changed)


def path_of(folder: str, invoker: int, invokers: int) -> Path:
    """Return where an invoker has its file."""
    return Path(folder) / f"invoker-{invoker + 1}-of-{invokers}.sqlite"


def _damaged(path: Path) -> list[Path]:
    return sorted(
        found
        for found in path.parent.glob(f"{path.name}.damaged-*")
        if found.name.removeprefix(f"{path.name}.damaged-").isdecimal()
    )
