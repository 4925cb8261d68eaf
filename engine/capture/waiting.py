"""What a subscriber's loop waits for: its feeds, its supervisor, a ring that was full, and the next due moment.

A shard may have hundreds of feeds. So a turn serves only those that have bytes, or are due; nothing here looks at all
of them.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from heapq import heappop, heappush

from engine.redis.connection import RespConnection

BEAT_MS_MAX = 500
"""The loop turns at least this often, to show its supervisor that it lives."""
FULL_WAIT_MS_MIN, FULL_WAIT_MS_MAX = 1, 20
"""Rings have no wake-up in this direction: a writer that found one full looks again, less and less often."""

FeedName = tuple[int, bytes]
"""What identifies a feed: the number of its node, and the last bytes of its keys."""


class Waiter:
    """One loop's; times are monotonic milliseconds."""

    def __init__(self, link_fd: int) -> None:
        self.ready: set[FeedName] = set()
        """Feeds whose sockets were ready at the last `wait`, or that had more to read before it."""
        self._poller = select.poll()
        self._link_fd = link_fd
        self._poller.register(link_fd, select.POLLIN)
        self._followed: dict[FeedName, Sequence[RespConnection]] = {}
        self._descriptors: dict[FeedName, list[int]] = {}
        self._name_of: dict[int, FeedName] = {}
        self._due_ms: dict[FeedName, int] = {}
        self._moments: list[tuple[int, FeedName]] = []
        """When feeds are due, the earliest first; some entries are outdated."""
        self._full_wait_ms = FULL_WAIT_MS_MIN

    def follow(self, name: FeedName, connections: Sequence[RespConnection], due_ms: int, *, has_more: bool) -> None:
        """Have this feed served when one of these is readable, and when it is due; at once where it ``has_more``.

        To be called each time after it was served: a closed descriptor would wake the loop forever.
        """
        if connections != self._followed.get(name):
            self._watch(name, connections)
        if due_ms != self._due_ms.get(name):
            self._due_ms[name] = due_ms
            heappush(self._moments, (due_ms, name))
        if has_more:
            self.ready.add(name)

    def forget(self, name: FeedName) -> None:
        """Stop serving this feed."""
        self._watch(name, ())
        for known in (self._followed, self._descriptors, self._due_ms):
            known.pop(name, None)
        self.ready.discard(name)

    def _watch(self, name: FeedName, connections: Sequence[RespConnection]) -> None:
        for descriptor in self._descriptors.get(name, ()):
            # Another feed's new connection may have got the same number by now.
            if self._name_of.get(descriptor) == name:
                del self._name_of[descriptor]
                self._poller.unregister(descriptor)
        self._followed[name] = connections
        self._descriptors[name] = [connection.fileno() for connection in connections]
        for descriptor in self._descriptors[name]:
            self._name_of[descriptor] = name
            self._poller.register(descriptor, select.POLLIN)

    def due(self, moment_ms: int) -> list[FeedName]:
        """Return the feeds that are due and not ready, each once."""
        found = []
        while self._moments and self._moments[0][0] <= moment_ms:
            due_ms, name = heappop(self._moments)
            if self._due_ms.get(name) == due_ms:
                del self._due_ms[name]
                if name not in self.ready:
                    found.append(name)
        return found

    def take_ready(self) -> set[FeedName]:
        """Return the feeds that have bytes; the caller has to serve them."""
        ready, self.ready = self.ready, set()
        return ready

    def wait(self, moment_ms: int, wait_ms_max: int, *, is_flushed: bool) -> bool:
        """Wait at most this long, and less while a ring is full; return whether the supervisor has sent something."""
        wait_ms = wait_ms_max
        if self._moments:
            wait_ms = min(wait_ms, max(1, self._moments[0][0] - moment_ms))
        if is_flushed:
            self._full_wait_ms = FULL_WAIT_MS_MIN
        else:
            wait_ms = min(wait_ms, self._full_wait_ms)
            self._full_wait_ms = min(2 * self._full_wait_ms, FULL_WAIT_MS_MAX)
        is_told = False
        for descriptor, _ in self._poller.poll(0 if self.ready else wait_ms):
            name = self._name_of.get(descriptor)
            if name is not None:
                self.ready.add(name)
            else:
                is_told = is_told or descriptor == self._link_fd
        return is_told
