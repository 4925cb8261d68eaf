"""What a subscriber's loop waits for: subscription, supervisor, a ring that was full, and the next due moment."""

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
        self._watched: RespConnection | None = None
        self._watched_fd = -1
        self._full_wait_ms = FULL_WAIT_MS_MIN

    def wait(self, connection: RespConnection | None, wait_ms: int, *, is_flushed: bool) -> bool:
        """Wait so long at most, and less while a ring is full; return whether the supervisor has said something."""
        if is_flushed:
            self._full_wait_ms = FULL_WAIT_MS_MIN
        else:
            wait_ms = min(wait_ms, self._full_wait_ms)
            self._full_wait_ms = min(2 * self._full_wait_ms, FULL_WAIT_MS_MAX)
        self._watch(connection)
        return any(descriptor == self._link_fd for descriptor, _ in self._poller.poll(wait_ms))

    def _watch(self, connection: RespConnection | None) -> None:
        """Have the poller follow the connection: a closed descriptor would wake it for ever."""
        if connection is self._watched:
            return
        if self._watched is not None:
            self._poller.unregister(self._watched_fd)
        if connection is not None:
            self._watched_fd = connection.fileno()
            self._poller.register(self._watched_fd, select.POLLIN)
        self._watched = connection
