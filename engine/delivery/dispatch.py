"""Invocations in flight: a few threads a lane, because `boto3` and its kin block.

The invoker's loop owns all state; a thread is given a payload and hands back an outcome, nothing else. Most
of an invocation's time is spent in the kernel or waiting, with the interpreter's lock released.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue

from engine.delivery.lane import Batch
from engine.delivery.targets.base import Target
from engine.model import Failure, Outcome
from engine.observe.logs import get_logger
from engine.ring.wake import Wake

log = get_logger(__name__)

Completion = tuple[int, Batch, Outcome]
"""Which lane, which batch, and what became of it."""


class Dispatcher:
    """The threads of one lane."""

    def __init__(self, lane_id: int, target: Target, threads: int, done: deque[Completion], wake: Wake) -> None:
        self._lane_id = lane_id
        self._target = target
        self._done = done
        self._wake = wake
        self._jobs: SimpleQueue[Batch | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"invoke-{lane_id}-{index}", daemon=True)
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, batch: Batch) -> None:
        """Start an invocation; its completion is appended to ``done`` and the loop is woken."""
        self._jobs.put(batch)

    def close(self) -> None:
        """Let the threads end once their invocations have; returns at once."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (batch := self._jobs.get()) is not None:
            self._done.append((self._lane_id, batch, self._invoke(batch)))
            self._wake.signal()

    def _invoke(self, batch: Batch) -> Outcome:
        try:
            return self._target.invoke(batch.payload)
        except Exception as error:
            # A target promises not to raise. If one does, its batch must still come back, or its keys
            # would stay in flight for ever.
            log.exception("target_raised", lane=self._lane_id)
            return Outcome(Failure.SERVICE, reason=f"{type(error).__name__}: {error}"[:500])
