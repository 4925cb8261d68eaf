"""How an audit works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """Limits of an audit.

    A key that differs is looked at again after ``settle_ms``, and again, ``rounds`` times; it counts only if it
    differed each time, and its value in Redis was the same. At most about ``suspects_max`` keys wait for that: when
    that many wait, the walk stops until they are settled. So memory is bounded, and findings are not.

    A destination that answers nothing for ``trouble_s_max`` ends it. A repair deletes more than the limit only with
    ``accept_deletions``.
    """

    keys_per_s_max: int = 5_000
    workers: int = 4
    repair: bool = False
    accept_deletions: bool = False
    deletions_found_share_max: float = 0.25
    settle_ms: int = 1_000
    rounds: int = 3
    suspects_max: int = 20_000
    trouble_s_max: float = 20.0
