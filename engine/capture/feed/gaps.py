"""Gaps: times in which a feed was not listening, or could not keep what it heard.

Each is counted and logged with its start, found by `engine.capture.feed.repair`, then compared with the destinations
(`engine.capture.feed.comparison`). Until then it is a debt, and the watermark stands at the earliest of those. So debts
that keep coming hold nobody up: each begins where all before it was heard, and those before it are paid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, auto

from engine.model import Missed
from engine.observe.logs import get_logger
from engine.ring.counters import GapReason, StatusRow

log = get_logger(__name__)


class Cause(Enum):
    """What goes on while a gap is open."""

    DEAF = auto()
    """Nobody listens, or the server does not tell."""
    FULL = auto()
    """More is heard than can be kept."""


class Gaps:
    """The gaps of one feed that have not ended, and up to when everything but them was heard."""

    def __init__(self, who: Mapping[str, object], heard: Missed, row: StatusRow) -> None:
        self.heard = heard
        """What a gap from now on misses: everything published before was read, or is a debt."""
        self._who = who
        self._row = row
        self._open: dict[Cause, Missed] = {}

    def hear(self, heard: Missed) -> None:
        """Note up to when everything was heard; that goes back with the server's clock alone."""
        self.heard = heard

    def is_open(self, cause: Cause) -> bool:
        """Tell whether one of this cause goes on."""
        return cause in self._open

    def begin(self, cause: Cause) -> Missed:
        """Open a gap, unless one of this cause is open; return since when it is."""
        return self._open.setdefault(cause, self.heard)

    def open(self, cause: Cause, kind: GapReason, reason: str) -> None:
        """Declare a gap, which goes on from here if none of its cause is open."""
        self.declare(kind, reason, self.begin(cause).since_ms)

    def end(self, cause: Cause) -> Missed | None:
        """Close the gap of this cause; return what it missed, None if none was open."""
        return self._open.pop(cause, None)

    def declare(self, kind: GapReason, reason: str, started_ms: int) -> None:
        """Count a gap, and say so."""
        self._row.count_gap(kind)
        log.warning("gap", **self._who, reason=reason, started_ms=started_ms)

    def oldest(self) -> Missed | None:
        """Return the earliest that is open."""
        return earliest(self._open.values())


def earliest(debts: Iterable[Missed | None]) -> Missed | None:
    """Return the one that began first; None if there is none."""
    return min((debt for debt in debts if debt is not None), key=lambda debt: debt.since_ms, default=None)
