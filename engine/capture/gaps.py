"""Gaps: times in which a shard was not listening, or could not keep what it heard.

Each is counted and logged with its start, and repaired by `engine.capture.repair`.
"""

from __future__ import annotations

import msgspec

from engine.observe.logs import get_logger
from engine.ring.counters import Counter, StatusRow

log = get_logger(__name__)


class Gap(msgspec.Struct, frozen=True):
    """One gap: of which shard, why, and since when (Unix time in milliseconds)."""

    shard: int
    reason: str
    started_ms: int


def declare_gap(gap: Gap, row: StatusRow) -> None:
    """Count a gap, and say so."""
    row.add(Counter.GAPS, 1)
    log.warning("gap", shard=gap.shard + 1, reason=gap.reason, started_ms=gap.started_ms)
