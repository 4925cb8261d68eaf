"""How far delivery has come, and what a start, or a replaced subscriber, has to find first.  (pure)"""

from __future__ import annotations

from collections.abc import Sequence

from engine.model import EVERY_ROUTE, THE_BEGINNING_MS, Missed, Watermark
from engine.routing.routes import RouteTable
from engine.routing.slices import server_of
from engine.supervision.progress.checkpoint import FORMAT, HEARD_SINCE_FORMAT, Checkpoint
from engine.supervision.progress.snapshots import Heard, Snapshots

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
        clock_ms: int = 0,
    ) -> None:
        """Begin at what a checkpoint says; ``is_lost`` where there was one that can't be read.

        ``now_ms`` is where a first start begins (Unix time, the server's clock); a checkpoint is kept every
        ``interval_ms``. ``clock_ms`` is how far the server's clock was ahead of this host's monotonic one.
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
        self._clock_ms = clock_ms
        names = {route.name for route in table.routes.values()}
        if found is not None and found.format >= HEARD_SINCE_FORMAT:
            past = dict(found.heard)
        else:
            # An older checkpoint knows the names of routes that had what they were promised, and not their filters. One
            # that is lost means the whole keyspace for all.
            had = names if is_lost else names.intersection(found.routes if found else ())
            past = {r.name: Heard.by(r, is_whole=True) for r in table.routes.values() if r.name in had}
        self._snapshots = Snapshots(past, table, now_ms)
        self._is_clean = found.is_clean if found else not is_lost
        unseen_us = 0 if self._is_clean else RESTART_INTERVALS * interval_ms * 1_000
        self.version_floor = version + unseen_us if version and not self.is_first else 0
        self._version, self._version_ms = 0, 0

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing of the engine before this one can still be in flight."""
        return self._is_clean

    @property
    def watermark_ms(self) -> int:
        """Return up to when everything is settled (Unix ms)."""
        return self._baseline_ms

    def take_routes(self, table: RouteTable, after_ms: int | None = None) -> None:
        """Take in a table; what its new routes wait for is over after ``after_ms``, or begins `in_force`."""
        self._snapshots.take_routes(table, after_ms)

    def in_force(self, heard_until_ms: int) -> None:
        """Note that everybody routes by the newest table; no subscriber had sent a younger watermark before."""
        self._snapshots.in_force(heard_until_ms)

    def whole_keyspace(self, *, is_new: bool = False) -> tuple[Missed, ...]:
        """Return the scan that routes which begin with the whole keyspace wait for, or new ones among them alone."""
        return self._snapshots.missed(is_new=is_new)

    def snapshots(self) -> dict[str, str]:
        """Return how far each route's snapshot of the whole keyspace is, in words."""
        return self._snapshots.states()

    def heard(self) -> Missed:
        """Return what a gap from now on would miss, by what is settled."""
        return Missed(self._baseline_ms, self._mark, clock_ms=self._clock_ms)

    def missed_at_start(self) -> tuple[Missed, ...]:
        """Return what the first subscribers have to find: what routes that had begun missed while nobody listened."""
        missed = self.whole_keyspace()
        if not self.is_first:
            routes = self._snapshots.listening() or EVERY_ROUTE
            missed = (Missed(self._baseline_ms, self._mark, routes, clock_ms=self._clock_ms), *missed)
        return missed

    def missed_by(self, heard_until_ms: int, server_mark: int, clock_ms: int) -> tuple[Missed, ...]:
        """Return what the successor of a subscriber has to find, that had marked up to this moment (0: never)."""
        if not heard_until_ms:
            heard_until_ms, server_mark, clock_ms = self._baseline_ms, self._mark, self._clock_ms
        return (Missed(heard_until_ms, server_mark, clock_ms=clock_ms), *self.whole_keyspace())

    def advance(self, watermarks: Sequence[Watermark]) -> None:
        """Take in the settled watermark of every ring (0: none yet).

        No watermark passes a scan that is under way, so one that is younger than a route's beginning ends it.
        """
        lowest = min((watermark.moment_ms for watermark in watermarks), default=0)
        if not lowest:
            return
        # Where the newest has the mark of the oldest, nothing has happened in between.
        marks = {watermark.server_mark for watermark in watermarks}
        self._baseline_ms, self._mark = lowest, marks.pop() if len(marks) == 1 else 0
        self._snapshots.advance(lowest)

    def checkpoint(
        self, version: int, written_at_ms: int, moment_ms: int, *, is_clean: bool, fence_after_ms: int = 0
    ) -> Checkpoint:
        """Return what to keep: ``version`` is the highest that was given out, ``moment_ms`` the monotonic time.

        Invocations write no more once ``fence_after_ms`` have passed after their start.

        Versions grow with time: where no key was read for a while, the next one will be higher by that.
        """
        if version > self._version:
            self._version, self._version_ms = version, moment_ms
        elif version and not is_clean:
            version += (moment_ms - self._version_ms) * 1_000
        return Checkpoint(
            self._scope,
            self._baseline_ms,
            self._mark,
            max(version, self.version_floor),
            self._snapshots.done(),
            is_clean,
            written_at_ms,
            format=FORMAT,
            heard=self._snapshots.kept(),
            fence_after_ms=fence_after_ms,
        )
