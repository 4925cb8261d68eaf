"""Signals as something to wait for: handlers only record, a socket wakes the loop."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from engine.clock import monotonic_ms

SAME_MS = 250
"""A signal repeated this soon is the same one: `timeout` signals a command, and then its process group."""
HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


class SignalInbox:
    """The signals that arrived; readable (`fileno`) when there may be new ones. One per process."""

    def __init__(self, clock: Callable[[], int] = monotonic_ms) -> None:
        self._clock = clock
        self._recorded: list[tuple[int, int]] = []
        self._counted_ms: dict[int, int] = {}
        self._reads, self._writes = socket.socketpair()
        self._reads.setblocking(False)
        self._writes.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._writes.fileno(), warn_on_full_buffer=False)
        self._previous: dict[int, Any] = {number: signal.signal(number, self._record) for number in HEARD}

    def _record(self, number: int, _frame: FrameType | None) -> None:
        self._recorded.append((number, self._clock()))

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._reads.fileno()

    def take(self) -> list[int]:
        """Return the signals that arrived since the last call, the oldest first, without immediate repeats."""
        with contextlib.suppress(BlockingIOError):
            while self._reads.recv(4_096):
                pass
        taken, self._recorded = self._recorded, []
        return [number for number, at_ms in taken if self._counts(number, at_ms)]

    def _counts(self, number: int, at_ms: int) -> bool:
        if at_ms < self._counted_ms.get(number, at_ms - SAME_MS) + SAME_MS:
            return False
        self._counted_ms[number] = at_ms
        return True

    def restore(self) -> None:
        """Put back what was before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self.close()

    def close(self) -> None:
        """Only close the descriptors: for a child, which resets its signals itself."""
        self._reads.close()
        self._writes.close()


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Hold signals back: between fork and a child's own handlers, one would run the parent's."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_supervisor() -> None:
    """In a new child: no wake-up socket, nothing held back, and deaf to what ends or reloads an engine.

    A terminal, `timeout` or a container's init signals the whole process group. Only the supervisor acts on it, and
    tells its children when it is their turn.
    """
    signal.set_wakeup_fd(-1)
    for number in HEARD:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
