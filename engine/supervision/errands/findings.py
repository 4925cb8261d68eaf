"""One thing that was checked before a start."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from engine.errors import Problem


class Verdict(StrEnum):
    """What a finding means for a start."""

    OK = "ok"
    NOTE = "note"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and the remedy if one is needed."""

    verdict: Verdict
    problem: Problem
    exit_code: int = 0


def finding(verdict: Verdict, place: str, message: str, hint: str = "") -> Finding:
    """Return a finding that does not keep the engine from starting."""
    return Finding(verdict, Problem(place, message, hint))
