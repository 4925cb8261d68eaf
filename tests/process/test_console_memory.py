"""What the console may do with the engine's shared memory: read it."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable

import pytest

from engine.model import Watermark
from engine.ring.counters import Counter
from engine.supervision.memory import SharedMemory

WRITES: dict[str, Callable[[SharedMemory], object]] = {
    "a counter": lambda memory: memory.board.row(0).add(Counter.GAPS, 1),
    "a ring": lambda memory: memory.rings.ring(0, 0).reader().set_watermark(Watermark(9, 9)),
    "what was heard": lambda memory: memory.heard.row(0).set(0, 9, 9, 9),
    "a version": lambda memory: memory.given.rows[0].set(0, 9),
}


def ended(work: Callable[[], object]) -> int:
    """Return how a process ended that does this: 0, or the signal that killed it, negative."""
    pid = os.fork()
    if not pid:
        faulthandler.disable()
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("what", WRITES)
def test_a_console_that_writes_harms_nobody(what: str) -> None:
    """A write to the shared memory kills the process that may only read it, before anything is written."""
    memory = SharedMemory(1, 1, 65_536)
    memory.board.row(0).add(Counter.GAPS, 7)
    before = memory.rings.ring(0, 0).watermark(0)

    def read_and_write() -> None:
        memory.make_read_only()
        assert memory.board.row(0).get(Counter.GAPS) == 7
        WRITES[what](memory)

    assert ended(memory.make_read_only) == 0
    assert ended(read_and_write) == -signal.SIGSEGV
    assert memory.rings.ring(0, 0).watermark(0) == before
    assert (memory.heard.row(0).get(0).since_ms, memory.given.rows[0].get(0)) == (0, 0)
    # Whoever made it goes on writing.
    memory.board.row(0).add(Counter.GAPS, 1)
    assert memory.board.row(0).get(Counter.GAPS) == 8
