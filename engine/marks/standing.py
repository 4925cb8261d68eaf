"""How far the engine that runs here has come, as its status file says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.clock import now_ms
from engine.errors import EngineError
from engine.observe.status import read_status
from engine.routing.slices import Slice, parse_slice


@dataclass(frozen=True, slots=True)
class Standing:
    """One engine and its life (``engine``), how many gaps it has had, and its watermark (Unix ms of the server)."""

    engine: tuple[int, int]
    gaps: int
    settled_until_ms: int
    part: Slice

    def has_heard_all_since(self, before: Standing) -> bool:
        """Tell whether this engine has listened all the time since it stood there."""
        return self.engine == before.engine and self.gaps == before.gaps


def read_standing(status_file: str) -> Standing | None:
    """Return where the engine stands; None where none runs here."""
    try:
        status: dict[str, Any] = read_status(status_file, now_ms())
        return Standing(
            (int(status["pid"]), int(status["started_at_ms"])),
            int(status["totals"]["gaps"]),
            int(status["settled_until_ms"]),
            parse_slice(status["slice"]),
        )
    except (EngineError, KeyError, ValueError):
        return None
