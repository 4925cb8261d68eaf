"""Marks some changes on their way into a ring, so that they are traced."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

from engine.model import Change
from engine.tracing.mark import IDS_BYTES, mark_of
from engine.tracing.sampling import Sampler


class Marker:
    """Marks some of the changes that a subscriber writes."""

    def __init__(self, sampler: Sampler, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._sampler = sampler
        self._clock_ns = clock_ns

    def mark(self, changes: list[Change]) -> None:
        """Replace those of these changes that are traced by marked ones: each becomes a run of its own."""
        picks = self._sampler.picks(len(changes))
        if picks:
            now_ns = self._clock_ns()
            for index in picks:
                known = changes[index]
                trace = mark_of(os.urandom(IDS_BYTES), now_ns)
                changes[index] = Change(known.event, known.routes, known.captured_ms, known.events, trace)


def marker_of(per_million: int) -> Marker | None:
    """Return what marks this many changes of a million, None for none."""
    return Marker(Sampler(per_million, random.random)) if per_million else None
