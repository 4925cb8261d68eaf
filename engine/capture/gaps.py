"""Gaps: times in which a shard was not listening, or could not keep what it heard.

Each is counted and logged with its start. Repairing one, by a scan of its shard that marks keys dirty through the
same path, attaches to `declare_gap`.
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
    """Count a gap, and say so: changes of its keys reach the destination with their next change."""
    row.add(Counter.GAPS, 1)
    log.warning("gap", shard=gap.shard + 1, reason=gap.reason, started_ms=gap.started_ms)
