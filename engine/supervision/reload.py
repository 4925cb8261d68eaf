"""New routes while the engine runs: who learns of them, and in which order.  (pure)

Invokers learn a new table before subscribers do: a change must never arrive for a route that its invoker does
not know, because nobody would hold it, and it would be released unsettled. A child that is forked meanwhile is
born with the table that its kind has now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

import msgspec

from engine.config import Settings
from engine.routing.routes import RouteTable
from engine.supervision.children import Child, Role

DEBOUNCE_MS = 200
"""Requests that come together are one: a mapping is often several hashes set in a row."""


class Stage(Enum):
    """How far a reload has come."""

    IDLE = auto()
    PLANNING = auto()
    INVOKERS = auto()
    SUBSCRIBERS = auto()


@dataclass(frozen=True, slots=True)
class Teach:
    """Send this child the newest table."""

    number: int


@dataclass(frozen=True, slots=True)
class Replace:
    """This child did not take the table in time."""

    number: int


@dataclass(frozen=True, slots=True)
class InForce:
    """Everybody routes by the newest table."""


Step = Teach | Replace | InForce


class Reload:
    """The route table in force, the newest one, and how the first becomes the second."""

    def __init__(self, table: RouteTable, confirm_ms_max: int) -> None:
        self.newest = table
        self.stage = Stage.IDLE
        self._current = table
        self._confirm_ms_max = confirm_ms_max
        self._due_ms: int | None = None
        self._stage_by_ms = 0
        self._versions: dict[int, int] = {}
        self._taught: set[int] = set()

    def want(self, now_ms: int) -> None:
        """Take in a wish for new routes; wishes close together are one."""
        if self._due_ms is None:
            self._due_ms = now_ms + DEBOUNCE_MS

    def is_due(self, now_ms: int) -> bool:
        """Tell whether the routes should be read now."""
        return self.stage is Stage.IDLE and self._due_ms is not None and now_ms >= self._due_ms

    def planning(self) -> None:
        """Note that the routes are being read; a wish from now on is a new one."""
        self._due_ms = None
        self.stage = Stage.PLANNING

    def refused(self) -> None:
        """Keep the routes that are in force."""
        self.stage = Stage.IDLE

    def planned(self, table: RouteTable, now_ms: int) -> bool:
        """Take the table that was read; False where it changes nothing."""
        if dict(table.routes) == dict(self.newest.routes) and table.unfenced == self.newest.unfenced:
            self.stage = Stage.IDLE
            return False
        assert table.version > self.newest.version
        self.newest = table
        self._enter(Stage.INVOKERS, now_ms)
        return True

    def table_for(self, role: Role) -> RouteTable:
        """Return the table with which a child of this kind is forked now."""
        return self._current if role is Role.SUBSCRIBER else self.newest

    def forked(self, child: Child) -> None:
        """Note that this child was born with its kind's table."""
        self._versions[child.number] = self.table_for(child.role).version
        self._taught.discard(child.number)

    def confirmed(self, number: int, version: int) -> None:
        """Note which table is in force in this child."""
        self._versions[number] = version

    def step(self, children: Sequence[Child], now_ms: int) -> list[Step]:
        """Return what is to be done now."""
        if self.stage not in {Stage.INVOKERS, Stage.SUBSCRIBERS}:
            return []
        role = Role.INVOKER if self.stage is Stage.INVOKERS else Role.SUBSCRIBER
        behind = [
            child
            for child in children
            if child.role is role and child.pid and self._versions[child.number] < self.newest.version
        ]
        if behind:
            return self._teach(behind, now_ms)
        if self.stage is Stage.INVOKERS:
            self._current = self.newest
            self._enter(Stage.SUBSCRIBERS, now_ms)
            return self.step(children, now_ms)
        self.stage = Stage.IDLE
        return [InForce()]

    def _teach(self, behind: list[Child], now_ms: int) -> list[Step]:
        if now_ms >= self._stage_by_ms:
            self._stage_by_ms = now_ms + self._confirm_ms_max
            return [Replace(child.number) for child in behind]
        fresh = [child.number for child in behind if child.number not in self._taught]
        self._taught.update(fresh)
        return [Teach(number) for number in fresh]

    def _enter(self, stage: Stage, now_ms: int) -> None:
        self.stage = stage
        self._stage_by_ms = now_ms + self._confirm_ms_max
        self._taught.clear()


def takes_a_restart(settings: Settings, fresh: Settings) -> tuple[str, ...]:
    """Return the settings that differ and that only a start takes, by their dotted names."""
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
