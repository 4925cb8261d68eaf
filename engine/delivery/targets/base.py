"""What a target is: a place where batches go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from engine.delivery.lanes.work import Batch
from engine.model import Failure, Outcome
from engine.observe.logs import get_logger

log = get_logger(__name__)

Ended = Callable[[Batch, Outcome], None]
"""Receives a batch's outcome; called in the loop."""


class Target(Protocol):
    """Takes payloads, and returns their outcomes."""

    def invoke(self, payload: bytes) -> Outcome:
        """Deliver one payload and wait; every expected failure is an outcome. Several threads may call it at once."""
        ...

    def now_ms(self) -> int:
        """Return Unix time in milliseconds as the service's own clock has it, as far as that is known."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


class OnTheLoop(Protocol):
    """A target's deliveries on the invoker's own loop."""

    def start(self, batch: Batch) -> None:
        """Begin with a batch; it ends once, in the loop."""
        ...

    def close(self) -> None:
        """Close idle connections, and the others as their requests end."""
        ...


def invoked(invoke: Callable[[], Outcome]) -> Outcome:
    """Return the outcome of a payload that is delivered in a thread, whatever happens."""
    try:
        return invoke()
    except Exception as error:
        # A target promises not to raise. If one does, its batch must still come back, or its keys would stay in flight
        # forever.
        log.exception("target_raised")
        return Outcome(Failure.SERVICE, reason=f"{type(error).__name__}: {error}"[:500], is_lost=True)
