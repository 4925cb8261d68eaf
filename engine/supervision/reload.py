"""New routes while the engine runs: which children learn of them, and in which order.  (pure)

Invokers learn a new table before subscribers do: a change must never arrive for a route that its invoker does not know,
because no lane would hold it, and it would be released unsettled. A child that is forked meanwhile starts with the
table that its kind has now.
"""

from __future__ import annotations

import msgspec

from engine.config import Settings
from engine.routing.routes import RouteTable
from engine.supervision.children import Role
from engine.supervision.topology.rollout import Rollout, Stage

DEBOUNCE_MS = 200
"""Requests close together count as one: a mapping is often several hashes set in a row."""


class Reload(Rollout):
    """The route table in force, the newest one, and how the first becomes the second."""

    def __init__(self, table: RouteTable, confirm_ms_max: int) -> None:
        super().__init__(table.version, confirm_ms_max)
        self.newest = self._before = table
        self._due_ms: int | None = None

    def want(self, now_ms: int) -> None:
        """Take in a request for new routes; requests close together count as one."""
        if self._due_ms is None:
            self._due_ms = now_ms + DEBOUNCE_MS

    def is_due(self, now_ms: int) -> bool:
        """Tell whether the routes should be read now."""
        return self.stage is Stage.IDLE and self._due_ms is not None and now_ms >= self._due_ms

    def planning(self) -> None:
        """Note that the routes are being read; a request from now on is a new one."""
        self._due_ms = None
        self.stage = Stage.PLANNING

    def refused(self) -> None:
        """Keep the routes that are in force."""
        self.stage = Stage.IDLE

    def planned(self, table: RouteTable, now_ms: int) -> bool:
        """Take the table that was read; False if it changes nothing."""
        self.stage = Stage.IDLE
        if dict(table.routes) == dict(self.newest.routes) and table.unfenced == self.newest.unfenced:
            return False
        self.newest, self._before = table, self.newest
        self.begin(table.version, now_ms)
        return True

    def table_for(self, role: Role) -> RouteTable:
        """Return the table with which a child of this kind is forked now."""
        return self.newest if self.has_newest(role) else self._before


def takes_a_restart(settings: Settings, fresh: Settings) -> tuple[str, ...]:
    """Return the settings that differ and that only a start applies, by their dotted names."""
    mine, theirs = msgspec.structs.asdict(settings), msgspec.structs.asdict(fresh)
    changed = []
    for section in mine.keys() - {"routes", "original"}:
        before, after = msgspec.structs.asdict(mine[section]), msgspec.structs.asdict(theirs[section])
        changed += [f"{section}.{name}" for name in before if before[name] != after[name]]
    if settings.original.mapping_prefix != fresh.original.mapping_prefix:
        changed.append("original.mapping_prefix")
    return tuple(sorted(changed))


def with_routes_of(settings: Settings, fresh: Settings) -> Settings:
    """Return the running settings with the routes of the fresh ones; the rest takes a restart."""
    prefix = settings.original.mapping_prefix
    original = msgspec.structs.replace(fresh.original, mapping_prefix=prefix)
    return msgspec.structs.replace(settings, routes=fresh.routes, original=original)
