"""What a target is: somewhere that batches go."""

from __future__ import annotations

from typing import Protocol

from engine.model import Outcome


class Target(Protocol):
    """Takes payloads, tells what became of them. Several threads call `invoke` at once."""

    def invoke(self, payload: bytes) -> Outcome:
        """Deliver one payload; every expected failure is an outcome, none is raised."""
        ...

    def now_ms(self) -> int:
        """Return Unix time in milliseconds as the service's own clock has it, as far as that is known."""
        ...

    def close(self) -> None:
        """Give back connections."""
        ...
