"""Scripted time, seeded chance, and the moment at which a process is killed."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

UNIX_AHEAD_MS = 1_700_000_000_000


class Killed(BaseException):
    """The invoker's process ends here; like SIGKILL, nobody handles it."""


class World:
    """What everybody shares: the clocks, what is going to happen, and who is out of order."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.mono_ms = 5_000
        self.jumped_ms = 0
        """By how much the host's clock is wrong; the server's and the service's never are."""
        self.is_redis_down = False
        self.is_disk_full = False
        self.disk_failed = 0
        self.fuse: int | None = None
        """After so many more points at which a process may be killed, it is."""
        self.story: list[str] = []
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()

    @property
    def true_ms(self) -> int:
        """Return Unix time as the server and the service have it."""
        return self.mono_ms + UNIX_AHEAD_MS

    def monotonic_ms(self) -> int:
        """Return what stands for `engine.clock.monotonic_ms`."""
        return self.mono_ms

    def now_ms(self) -> int:
        """Return what stands for `engine.clock.now_ms`."""
        return self.true_ms + self.jumped_ms

    def after(self, delay_ms: int, what: Callable[[], None]) -> None:
        """Have this happen in so many milliseconds, at least 1."""
        heapq.heappush(self._events, (self.mono_ms + max(1, delay_ms), next(self._order), what))

    def next_event_ms(self) -> int | None:
        """Return when the next thing happens by itself."""
        return self._events[0][0] if self._events else None

    def advance(self, to_ms: int) -> None:
        """Let time pass, and everything happen that is due by then."""
        while self._events and self._events[0][0] <= to_ms:
            due_ms, _, what = heapq.heappop(self._events)
            self.mono_ms = max(self.mono_ms, due_ms)
            what()
        self.mono_ms = max(self.mono_ms, to_ms)

    def point(self) -> None:
        """Stand where a process may be killed."""
        if self.fuse is None:
            return
        self.fuse -= 1
        if self.fuse <= 0:
            self.fuse = None
            raise Killed

    def tell(self, text: str) -> None:
        """Note what happened, for whoever reads a failure."""
        self.story.append(f"{self.mono_ms:>8} {text}")
