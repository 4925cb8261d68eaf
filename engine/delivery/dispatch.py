"""What carries batches out and outcomes back: the loop's own sockets for targets, threads for all that blocks.

Threads connect, look for credentials, and keep dead letters: those are few, writing to disk blocks, and what S3
requires of a request is left to `boto3`. The invoker's loop owns all state; a thread receives work and returns what the
loop has to do, and nothing else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from engine.delivery.failures.dead_letter import DeadLetter
from engine.delivery.failures.places import FailureSink
from engine.delivery.lanes.work import Batch, Entry
from engine.delivery.sockets import Sockets
from engine.delivery.targets.base import Target
from engine.delivery.targets.make import flights_of
from engine.model import Outcome
from engine.observe.logs import get_logger
from engine.ring.wake import Wake

log = get_logger(__name__)


@dataclass(slots=True)
class Burial:
    """Entries that are given up on, as letters for the route's ``on_failure`` place."""

    entries: list[Entry]
    attempts: int
    letters: Sequence[DeadLetter]
    told: Outcome


@dataclass(frozen=True, slots=True)
class Delivered:
    """An invocation ended."""

    lane_id: int
    batch: Batch
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Buried:
    """Dead letters were kept, or were not: ``problem`` says why."""

    lane_id: int
    burial: Burial
    problem: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """Work that blocks is done: the loop has to call ``go_on``."""

    go_on: Callable[[], None]


Completion = Delivered | Buried | Prepared


class Dispatcher:
    """What one lane delivers with: its target's deliveries on the loop, and a few threads."""

    def __init__(
        self,
        lane_id: int,
        target: Target,
        sink: FailureSink,
        threads: int,
        done: deque[Completion],
        wake: Wake,
        sockets: Sockets,
    ) -> None:
        self._lane_id = lane_id
        self._target = target
        self._sink = sink
        self._done = done
        self._wake = wake
        self._jobs: SimpleQueue[Burial | Callable[[], Callable[[], None]] | None] = SimpleQueue()
        self._flights = flights_of(target, sockets, self._jobs.put, self._ended)
        self._threads = [
            threading.Thread(target=self._work, name=f"invoke-{lane_id}-{index}", daemon=True)
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Batch | Burial) -> None:
        """Start a delivery or a burial; its completion is appended to ``done`` and the loop is woken."""
        if isinstance(job, Batch):
            self._flights.start(job)
        else:
            self._jobs.put(job)

    def close(self) -> None:
        """Let the threads end once their work has; returns at once."""
        self._flights.close()
        for _ in self._threads:
            self._jobs.put(None)

    def _ended(self, batch: Batch, outcome: Outcome) -> None:
        self._done.append(Delivered(self._lane_id, batch, outcome))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, Burial):
                self._done.append(Buried(self._lane_id, job, self._bury(job)))
            else:
                self._done.append(Prepared(job()))
            self._wake.signal()

    def _bury(self, burial: Burial) -> str:
        try:
            return self._sink.write(burial.letters)
        except Exception as error:
            log.exception("sink_raised", lane=self._lane_id)
            return f"{type(error).__name__}: {error}"[:500]
