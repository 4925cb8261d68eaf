"""How many calls a server works on at once: a call too many is refused, and one that nobody waits for is not begun.

Python runs one of them at a time, so that more under way only makes each slower, until callers give up and send theirs
again: an overload that keeps itself alive.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CALLS_MAX = 8
WAIT_S_MAX = 0.1
"""A burst waits for a moment; a caller's patience is longer than this and what the calls before it take."""


class Admission:
    """The calls under way."""

    def __init__(self, calls_max: int = CALLS_MAX, wait_s_max: float = WAIT_S_MAX) -> None:
        self._slots = threading.BoundedSemaphore(calls_max)
        self._wait_s_max = wait_s_max

    @contextmanager
    def enter(self) -> Iterator[bool]:
        """Yield whether the call may be worked on; others are to be refused."""
        is_in = self._slots.acquire(timeout=self._wait_s_max)
        try:
            yield is_in
        finally:
            if is_in:
                self._slots.release()


def has_gone(connection: socket.socket) -> bool:
    """Tell whether the caller has closed its end."""
    timeout_s = connection.gettimeout()
    try:
        connection.setblocking(False)
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(timeout_s)
