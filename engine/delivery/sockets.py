"""What an invoker's loop waits for: its wake-up, its supervisor, and the answers to its invocations."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Protocol

NEVER_MS = 1 << 62


class Expiring(Protocol):
    """Something that expires: calls that are under way."""

    def next_expiry_ms(self) -> int | None:
        """Return when (monotonic) something of it expires, None if nothing does."""

    def expire(self, moment_ms: int) -> None:
        """Give up what has expired by now."""


class Sockets:
    """Descriptors, and what is to be done when each is ready."""

    def __init__(self) -> None:
        self._poller, self._urgent = select.poll(), select.poll()
        self._hasty: set[int] = set()
        self._ready: dict[int, Callable[[], None]] = {}
        self._expiring: dict[Expiring, None] = {}
        self._look_ms = NEVER_MS
        """When (monotonic) something expires, at the earliest."""
        self._is_hurried = False

    def watch(self, descriptor: int, wants: int, on_ready: Callable[[], None], *, is_urgent: bool = False) -> None:
        """Call ``on_ready`` whenever the descriptor is ready for ``wants``, until `forget`.

        What ``is_urgent`` ends a wait in which nothing else does; so does a request that is not sent whole.
        """
        self._poller.register(descriptor, wants)
        if is_urgent or wants & select.POLLOUT:
            self._hasten(descriptor, wants)
        self._ready[descriptor] = on_ready

    def change(self, descriptor: int, wants: int) -> None:
        """Wait for something else on a watched descriptor."""
        self._poller.modify(descriptor, wants)
        self._calm(descriptor)
        if wants & select.POLLOUT:
            self._hasten(descriptor, wants)

    def forget(self, descriptor: int) -> None:
        """Stop waiting for this one; call it before the descriptor is closed."""
        if self._ready.pop(descriptor, None) is not None:
            self._poller.unregister(descriptor)
            self._calm(descriptor)

    def _hasten(self, descriptor: int, wants: int) -> None:
        self._hasty.add(descriptor)
        self._urgent.register(descriptor, wants)

    def _calm(self, descriptor: int) -> None:
        if descriptor in self._hasty:
            self._hasty.remove(descriptor)
            self._urgent.unregister(descriptor)

    def expect(self, calls: Expiring, by_ms: int) -> None:
        """Make these calls expire in time, until `expect_no_more`; the first may expire at ``by_ms`` (monotonic)."""
        self._expiring[calls] = None
        if by_ms < self._look_ms:
            self._look_ms = by_ms

    def hurry(self) -> None:
        """Make the next `expire` look whatever the time is; any thread may call it."""
        self._is_hurried = True

    def expect_no_more(self, calls: Expiring) -> None:
        """Note that none of these is under way."""
        self._expiring.pop(calls, None)

    def next_expiry_ms(self) -> int | None:
        """Return when (monotonic) a call may expire, at the earliest; None if none is under way."""
        return self._look_ms if self._expiring and self._look_ms < NEVER_MS else None

    def expire(self, moment_ms: int) -> None:
        """Give up calls that have taken too long."""
        if moment_ms < self._look_ms and not self._is_hurried:
            return
        # First: a thread may hurry us while we look.
        self._is_hurried = False
        for calls in tuple(self._expiring):
            calls.expire(moment_ms)
        times = [calls.next_expiry_ms() for calls in self._expiring]
        self._look_ms = min((time for time in times if time is not None), default=NEVER_MS)

    def wait(self, wait_ms: int, urgent_ms: int = 0) -> None:
        """Wait until something is ready, at most this long, and serve everything that is.

        In the first ``urgent_ms`` only what is urgent ends the wait: all else is served along with it.
        """
        if urgent_ms:
            urgent_ms = min(urgent_ms, wait_ms)
            wait_ms = 0 if self._urgent.poll(urgent_ms) else wait_ms - urgent_ms
        for descriptor, _ in self._poller.poll(wait_ms):
            # One that was served before it may have ended this one.
            on_ready = self._ready.get(descriptor)
            if on_ready is not None:
                on_ready()
