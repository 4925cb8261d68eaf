"""How long an invocation may write, and when a call is made again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from lambdas.contract import UNBOUNDED_MS, Deadline

DEADLINE_PASSED = "the batch's deadline has passed"
TOO_LATE = "the batch's deadline, or the invocation's end, is too near for another call"


class TooLate(Exception):
    """A call may not start any more: nothing was sent."""


class TimeLeft:
    """How long an invocation may write: until its batch's deadline, and until Lambda ends it.

    ``remaining_ms`` is what Lambda says, ``now_ms`` Unix time.
    """

    def __init__(self, remaining_ms: Callable[[], int], deadline: Deadline, now_ms: Callable[[], int]) -> None:
        self._remaining_ms = remaining_ms
        self._deadline = deadline
        self.now_ms = now_ms
        self._call_ms_max = self._left_ms() // 2
        self._is_late = False

    def is_over(self) -> bool:
        """Tell whether no write may start any more: the deadline has passed, or a call has come too late."""
        return self._is_late or self._deadline.has_passed(self.now_ms())

    def call_ms(self, timeout_ms: int) -> int:
        """Return how long a call that starts now may take; raise `TooLate` where it would not end in time.

        It is the call's own timeout, but at most half of what the invocation had at first: a short deadline leaves room
        for calls too. Ask just before the first byte: to connect takes time.
        """
        call_ms = min(timeout_ms, self._call_ms_max)
        if self._left_ms() < max(1, call_ms):
            self._is_late = True
            raise TooLate(TOO_LATE)
        return call_ms

    def _left_ms(self) -> int:
        return min(self._deadline.remaining_ms(self.now_ms()), self._remaining_ms())

    def allows(self, wait_ms: float, reserve_ms: int) -> bool:
        """Tell whether after such a wait writes may still start, and Lambda leaves the invocation this reserve."""
        if self._is_late:
            return False
        is_before = self._deadline.remaining_ms(self.now_ms()) > wait_ms
        return is_before and self._remaining_ms() - wait_ms >= reserve_ms


def unbounded() -> TimeLeft:
    """Return the time of a call that no batch waits for."""
    return TimeLeft(lambda: UNBOUNDED_MS, Deadline(), lambda: 0)


def past_deadline(reason: str, why: str = DEADLINE_PASSED) -> str:
    """Return why something was not written: the deadline, and what went wrong before it, "" for nothing."""
    return f"{why}; before that: {reason}" if reason else why


class Backoff(Protocol):
    """What a function's settings say of repeats."""

    @property
    def backoff_ms_min(self) -> int:
        """Return the bound of the first wait."""

    @property
    def backoff_ms_max(self) -> int:
        """Return the bound of every wait."""

    @property
    def reserve_ms(self) -> int:
        """Return what has to remain of the invocation after a wait."""


class Repeats:
    """Waits before repeats: exponential backoff, full jitter."""

    def __init__(self, backoff: Backoff, sleep: Callable[[float], None], rng: Callable[[], float]) -> None:
        self._backoff = backoff
        self._sleep = sleep
        self._rng = rng

    def pause(self, attempt: int, time_left: TimeLeft) -> bool:
        """Wait before a repeat, ``attempt`` counting from 1; False, at once, where there is no time for it."""
        backoff = self._backoff
        bound_ms = min(backoff.backoff_ms_max, backoff.backoff_ms_min << (attempt - 1))
        wait_ms = self._rng() * bound_ms
        if not time_left.allows(wait_ms, backoff.reserve_ms):
            return False
        self._sleep(wait_ms / 1_000)
        return True
