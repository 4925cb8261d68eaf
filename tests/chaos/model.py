"""What a round, a fault and the whole suite came to; how they are added up.  (pure)"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_SUMMED = ("written", "keys", "lost", "stale", "invented", "duplicates", "redis_lost")


@dataclass
class Round:
    """One round of one fault.

    ``written`` counts acknowledged changes, ``whole_again_s`` runs from healing until the destination equals Redis and
    is None where it never did; ``error`` is what kept the round from its end.
    """

    seed: int
    turn: int = 0
    struck: bool = False
    evidence: str = ""
    written: int = 0
    keys: int = 0
    lost: int = 0
    stale: int = 0
    invented: int = 0
    duplicates: int = 0
    redis_lost: int = 0
    whole_again_s: float | None = None
    took_s: float = 0.0
    error: str = ""
    details: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Tell whether the fault struck and the destination is right."""
        return self.struck and not self.error and not (self.lost or self.stale or self.invented)


def summary(name: str, rounds: Sequence[Round]) -> dict[str, Any]:
    """Return a fault's line of the report: counts are sums, ``struck`` means in every round, waits are the longest."""
    waits = [one.whole_again_s for one in rounds]
    known = [wait for wait in waits if wait is not None]
    line: dict[str, Any] = {
        "name": name,
        "struck": all(one.struck for one in rounds),
        "evidence": " | ".join(dict.fromkeys(one.evidence for one in rounds if one.evidence)),
    }
    line |= {what: sum(getattr(one, what) for one in rounds) for what in _SUMMED}
    line |= {
        "whole_again_s": round(max(known), 2) if len(known) == len(waits) else None,
        "passed": all(one.passed for one in rounds),
        "rounds": len(rounds),
        "seeds": [one.seed for one in rounds],
        "took_s": round(sum(one.took_s for one in rounds), 1),
        "errors": [one.error for one in rounds if one.error],
        "details": [detail for one in rounds for detail in one.details],
    }
    return line


def seed_of(seed: int, name: str, number: int) -> int:
    """Return the seed of one round: it depends on nothing but these, so that a fault alone repeats itself."""
    digest = hashlib.sha256(f"{seed}/{name}/{number}".encode()).digest()
    return int.from_bytes(digest[:6], "big")
