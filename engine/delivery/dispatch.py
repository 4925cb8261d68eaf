"""What carries batches out and outcomes back: the loop's own sockets for functions, threads for all that blocks.

Threads send to streams and queues and keep dead letters (`boto3` waits), and connect to functions. The invoker's loop
owns all state; a thread is given a payload and hands back an outcome, nothing else.
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
from engine.delivery.targets.flights import Flights
from engine.delivery.targets.lambda_ import LambdaTarget
from engine.model import Failure, Outcome
from engine.observe.logs import get_logger
from engine.ring.wake import Wake

log = get_logger(__name__)


@dataclass(slots=True)
class Burial:
    """Entries that are given up on, as letters for the route's ``on_failure`` place."""

    entries: list[Entry]
    attempts: int
    letters: Sequence[DeadLetter]
    reason: str


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
    """Work that blocks is done: ``go_on`` is for the loop to call."""

    go_on: Callable[[], None]


Completion = Delivered | Buried | Prepared


class Dispatcher:
    """The threads of one lane."""

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
        self._jobs: SimpleQueue[Batch | Burial | Callable[[], Callable[[], None]] | None] = SimpleQueue()
        self._flights: Flights | None = None
        if isinstance(target, LambdaTarget):
            self._flights = Flights(target, sockets, self._jobs.put, self._ended)
        self._threads = [
            threading.Thread(target=self._work, name=f"invoke-{lane_id}-{index}", daemon=True)
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Batch | Burial) -> None:
        """Start an invocation or a burial; its completion is appended to ``done`` and the loop is woken."""
        if self._flights is not None and isinstance(job, Batch):
            self._flights.start(job)
        else:
            self._jobs.put(job)

    def close(self) -> None:
        """Let the threads end once their work has; returns at once."""
        if self._flights is not None:
            self._flights.close()
        for _ in self._threads:
            self._jobs.put(None)

    def _ended(self, batch: Batch, outcome: Outcome) -> None:
        self._done.append(Delivered(self._lane_id, batch, outcome))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, Batch):
                self._done.append(Delivered(self._lane_id, job, self._invoke(job)))
            elif isinstance(job, Burial):
                self._done.append(Buried(self._lane_id, job, self._bury(job)))
            else:
                self._done.append(Prepared(job()))
            self._wake.signal()

    def _invoke(self, batch: Batch) -> Outcome:
        try:
            return self._target.invoke(batch.payload)
        except Exception as error:
            # A target promises not to raise. If one does, its batch must still come back, or its keys
            # would stay in flight for ever.
            log.exception("target_raised", lane=self._lane_id)
            return Outcome(Failure.SERVICE, reason=f"{type(error).__name__}: {error}"[:500], is_lost=True)

    def _bury(self, burial: Burial) -> str:
        try:
            return self._sink.write(burial.letters)
        except Exception as error:
            log.exception("sink_raised", lane=self._lane_id)
            return f"{type(error).__name__}: {error}"[:500]
