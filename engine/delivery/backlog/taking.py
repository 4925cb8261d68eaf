"""One walk through a route's rows, for those that are due: bounded, and continuing where the last one ended."""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from engine.delivery.backlog.file import PAGE_BYTES
from engine.delivery.backlog.rows import BEGINNING, DUE, RANGE, SLICE, BacklogRow, NotABacklog, row_of
from engine.delivery.backlog.walk import RECHECK_MS, Walk

TAKEN_BYTES_MAX = 16 << 20
WALKED_ROWS_MAX = 100_000
WALKED_BYTES_MAX = 64 << 20
"""The most that one `take` walks; the next one continues there."""
SLICE_ROWS_MIN, SLICE_ROWS_MAX = 256, 8_192


@dataclass(slots=True)
class Taking:
    """What one call wants, and has so far; ``removed`` are rows that only the disk still has."""

    route: str
    count: int
    now_ms: int
    skip: Container[bytes]
    removed: Container[bytes] = ()
    is_fresh: bool = False
    rows: list[BacklogRow] = field(default_factory=list)
    taken: set[bytes] = field(default_factory=set)
    key_bytes: int = 0

    def is_full(self) -> bool:
        """Tell whether it has all that it wants."""
        return len(self.rows) >= self.count or self.key_bytes >= TAKEN_BYTES_MAX

    def pick(self, due: Iterable[BacklogRow], walk: Walk) -> bool:
        """Take those of these rows that are free; return False if there is no room for all, and stay there."""
        for row in due:
            key = row.key
            if key in self.removed:
                continue
            if self.is_fresh and (row.attempts or row.together):
                # Looked at again a little later: walking all of them repeatedly would take all the time.
                walk.found_later(self.now_ms + RECHECK_MS)
                walk.after = key
                continue
            if key not in self.skip and key not in self.taken:
                if self.is_full():
                    return False
                self.rows.append(row)
                self.taken.add(key)
                self.key_bytes += len(key)
            walk.found_due(key)
            walk.after = key
        return True


def take(connection: sqlite3.Connection, taking: Taking, walk: Walk, rows: int) -> None:
    """Continue the walk, and take what is due; ``rows`` are in the file, of all routes."""
    walk.looked_ms = taking.now_ms
    if not _goes_on(walk, taking):
        return
    left = _rows_max(connection, rows)
    size = min(SLICE_ROWS_MIN, left)
    while left > 0 and not taking.is_full() and _goes_on(walk, taking):
        size = min(max(size, taking.count - len(taking.rows)), SLICE_ROWS_MAX, left)
        left -= 1 + _take_slice(connection, taking, walk, size)
        size *= 2


def _rows_max(connection: sqlite3.Connection, rows: int) -> int:
    """Return how many rows one call may walk: fewer where keys are long."""
    pages, free = (int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count"))
    row_bytes = (pages - free) * PAGE_BYTES // max(1, rows)
    return max(1, min(WALKED_ROWS_MAX, WALKED_BYTES_MAX // max(1, row_bytes)))


def _take_slice(connection: sqlite3.Connection, taking: Taking, walk: Walk, size: int) -> int:
    """Walk the next ``size`` rows, within SQLite as long as none is due; return how many there were."""
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
            raise NotABacklog("a key is not a blob")
        due = connection.execute(DUE, (taking.route, after, last, taking.now_ms))
        with closing(due):
            if not taking.pick(map(row_of, due), walk):
                return walked
        walk.after = last
    if walked < size:
        walk.reach_the_end()
    return walked


def _goes_on(walk: Walk, taking: Taking) -> bool:
    """Tell whether there is more to walk: the rest of this lap, or another where it would find something."""
    if walk.is_over and walk.finds_more(taking.now_ms, taking.skip, taking.taken):
        walk.begin()
    return not walk.is_over
