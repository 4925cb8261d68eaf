"""How far delivery has come, and what a start, or a replaced subscriber, has to find first.  (pure)"""

from __future__ import annotations

from collections.abc import Sequence

from engine.model import EVERY_ROUTE, THE_BEGINNING_MS, Missed, RouteMask, Watermark
from engine.routing.routes import RouteTable
from engine.routing.slices import server_of
from engine.supervision.progress.checkpoint import Checkpoint

RESTART_INTERVALS = 2
"""Versions that were given out after the checkpoint, in intervals of it: one that passed, and one unseen before it."""


class Progress:
    """The watermark of the whole engine, and the routes that still wait for the whole keyspace."""

    def __init__(
        self,
        scope: str,
        found: Checkpoint | None,
        table: RouteTable,
        now_ms: int,
        *,
        is_lost: bool,
        interval_ms: int = 1_000,
    ) -> None:
        """Begin at what a checkpoint says; ``is_lost`` where there was one that can't be read.

        ``now_ms`` is where a first start begins (Unix time, the server's clock); a checkpoint is kept every
        ``interval_ms``.
        """
        version = found.version if found is not None else 0
        if found is not None and found.scope != scope:
            # Of another slice: what is in this one now, nobody here has listened to.
            is_lost = server_of(found.scope) == server_of(scope)
            found = None
        self.is_first = found is None and not is_lost
        self._scope = scope
        self._baseline_ms = found.watermark_ms if found else (THE_BEGINNING_MS if is_lost else now_ms)
        self._mark = found.server_mark if found else 0
        self._known = set(found.routes) if found else set()
        if is_lost:
            self._known = {route.name for route in table.routes.values()}
        self._is_clean = found.is_clean if found else not is_lost
        unseen_us = 0 if self._is_clean else RESTART_INTERVALS * interval_ms * 1_000
        self.version_floor = version + unseen_us if version and not self.is_first else 0
        self._version, self._version_ms = 0, 0
        self._began: dict[str, int] = {}
        self.take_routes(table, now_ms)

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing of the engine before this one can still be in flight."""
        return self._is_clean

    @property
    def watermark_ms(self) -> int:
        """Return up to when everything is settled (Unix ms)."""
        return self._baseline_ms

    def take_routes(self, table: RouteTable, now_ms: int) -> None:
        """Take in a table: a new route that begins with the whole keyspace waits for it, any other has begun."""
        self._table = table
        for route in table.routes.values():
            if route.name in self._known or route.name in self._began:
                continue
            if route.starting_position == "TRIM_HORIZON":
                self._began[route.name] = now_ms
            else:
                self._known.add(route.name)

    def missed_at_start(self) -> tuple[Missed, ...]:
        """Return what the first subscribers have to find: what routes that had begun missed while nobody listened."""
        missed = self._whole_keyspace()
        if not self.is_first:
            missed = (Missed(self._baseline_ms, self._mark, self._known_before()), *missed)
        return missed

    def missed_by(self, heard_until_ms: int, server_mark: int) -> tuple[Missed, ...]:
        """Return what the successor of a subscriber has to find, that had marked up to this moment (0: never)."""
        if not heard_until_ms:
            heard_until_ms, server_mark = self._baseline_ms, self._mark
        return (Missed(heard_until_ms, server_mark), *self._whole_keyspace())

    def _known_before(self) -> RouteMask:
        names = self._known
        mask = sum(1 << slot for slot, route in self._table.routes.items() if route.name in names)
        return mask or EVERY_ROUTE

    def _whole_keyspace(self) -> tuple[Missed, ...]:
        mask = sum(1 << slot for slot, route in self._table.routes.items() if route.name in self._began)
        return (Missed(THE_BEGINNING_MS, 0, mask),) if mask else ()

    def advance(self, watermarks: Sequence[Watermark]) -> None:
        """Take in the settled watermark of every ring (0: none yet).

        No watermark is sent while a scan is under way, so one that is younger than a route's beginning ends it.
        """
        lowest = min((watermark.moment_ms for watermark in watermarks), default=0)
        if not lowest:
            return
        # Where the newest has the mark of the oldest, nothing has happened in between.
        marks = {watermark.server_mark for watermark in watermarks}
        self._baseline_ms, self._mark = lowest, marks.pop() if len(marks) == 1 else 0
        done = [name for name, began_ms in self._began.items() if lowest > began_ms]
        for name in done:
            del self._began[name]
            self._known.add(name)

    def checkpoint(self, version: int, written_at_ms: int, moment_ms: int, *, is_clean: bool) -> Checkpoint:
        """Return what to keep: ``version`` is the highest that was given out, ``moment_ms`` the monotonic time.

        Versions grow with time: where no key was read for a while, the next one will be higher by that.
        """
        if version > self._version:
            self._version, self._version_ms = version, moment_ms
        elif version and not is_clean:
            version += (moment_ms - self._version_ms) * 1_000
        alive = {route.name for route in self._table.routes.values()}
        return Checkpoint(
            self._scope,
            self._baseline_ms,
            self._mark,
            max(version, self.version_floor),
            tuple(sorted(self._known & alive)),
            is_clean,
            written_at_ms,
        )
