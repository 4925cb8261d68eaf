"""What a subscriber's loop waits for: its feeds, its supervisor, a ring that was full, and the next due moment."""

from __future__ import annotations

import select

from engine.redis.connection import RespConnection

FULL_WAIT_MS_MIN, FULL_WAIT_MS_MAX = 1, 20
"""Rings have no wake-up in this direction: a writer that found one full looks again, less and less often."""


class Waiter:
    """One loop's."""

    def __init__(self, link_fd: int) -> None:
        self._poller = select.poll()
        self._link_fd = link_fd
        self._poller.register(link_fd, select.POLLIN)
        self._watched: dict[RespConnection, int] = {}
        self._wanted: list[RespConnection] = []
        self._full_wait_ms = FULL_WAIT_MS_MIN

    def wait(self, connections: list[RespConnection], wait_ms: int, *, is_flushed: bool) -> bool:
        """Wait so long at most, and less while a ring is full; return whether the supervisor has said something."""
        if is_flushed:
            self._full_wait_ms = FULL_WAIT_MS_MIN
        else:
            wait_ms = min(wait_ms, self._full_wait_ms)
            self._full_wait_ms = min(2 * self._full_wait_ms, FULL_WAIT_MS_MAX)
        if connections != self._wanted:
            self._wanted = connections
            self._watch(set(connections))
        return any(descriptor == self._link_fd for descriptor, _ in self._poller.poll(wait_ms))

    def _watch(self, connections: set[RespConnection]) -> None:
        """Have the poller follow these connections, and no others: a closed descriptor would wake it for ever."""
        # Those that went first: a new one may have the descriptor of one that was closed.
        for gone in self._watched.keys() - connections:
            self._poller.unregister(self._watched.pop(gone))
        for new in connections - self._watched.keys():
            self._watched[new] = new.fileno()
            self._poller.register(self._watched[new], select.POLLIN)
