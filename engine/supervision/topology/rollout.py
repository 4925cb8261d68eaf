"""Something new for all children: which of them learn it, and in which order.  (pure)

Invokers learn of it before subscribers do. A child that is forked meanwhile starts with what its kind has now. One
that does not confirm in time is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from engine.supervision.children import Child, Role


class Stage(Enum):
    """How far it has come."""

    IDLE = auto()
    PLANNING = auto()
    INVOKERS = auto()
    SUBSCRIBERS = auto()


@dataclass(frozen=True, slots=True)
class Teach:
    """Send this child the newest."""

    number: int


@dataclass(frozen=True, slots=True)
class Replace:
    """This child did not confirm in time."""

    number: int


@dataclass(frozen=True, slots=True)
class InForce:
    """All children have the newest."""


Step = Teach | Replace | InForce


class Rollout:
    """By version: what is in force, what is newest, and how the first becomes the second."""

    def __init__(self, version: int, confirm_ms_max: int) -> None:
        self.stage = Stage.IDLE
        self._newest = self._current = version
        self._confirm_ms_max = confirm_ms_max
        self._stage_by_ms = 0
        self._versions: dict[int, int] = {}
        self._taught: set[int] = set()

    @property
    def is_under_way(self) -> bool:
        """Tell whether children are being told."""
        return self.stage in {Stage.INVOKERS, Stage.SUBSCRIBERS}

    def begin(self, version: int, now_ms: int) -> None:
        """Have all children told of a newer version."""
        assert version > self._newest
        assert not self.is_under_way
        self._newest = version
        self._enter(Stage.INVOKERS, now_ms)

    def has_newest(self, role: Role) -> bool:
        """Tell whether a child of this kind is forked with the newest now, or with what was in force before."""
        return role is Role.INVOKER or self._current == self._newest

    def forked(self, child: Child) -> None:
        """Note that this child started with what its kind has."""
        self._versions[child.number] = self._newest if self.has_newest(child.role) else self._current
        self._taught.discard(child.number)

    def version_of(self, child: Child) -> int:
        """Return which version is in force in this child."""
        return self._versions[child.number]

    def confirmed(self, number: int, version: int) -> None:
        """Note which version is in force in this child."""
        self._versions[number] = version

    def step(self, children: Sequence[Child], now_ms: int) -> list[Step]:
        """Return what is to be done now."""
        if not self.is_under_way:
            return []
        role = Role.INVOKER if self.stage is Stage.INVOKERS else Role.SUBSCRIBER
        behind = [
            child
            for child in children
            if child.role is role and child.pid and self._versions[child.number] < self._newest
        ]
        if behind:
            return self._teach(behind, now_ms)
        if self.stage is Stage.INVOKERS:
            self._current = self._newest
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
