"""How long an invocation may write, and when a call is made again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from lambdas.contract import UNBOUNDED_MS, Deadline

DEADLINE_PASSED = "the batch's deadline has passed"


class TimeLeft:
    """How long an invocation may write: until its batch's deadline, and until Lambda ends it.

    ``remaining_ms`` is what Lambda says, ``now_ms`` Unix time.
    """

    def __init__(self, remaining_ms: Callable[[], int], deadline: Deadline, now_ms: Callable[[], int]) -> None:
        self._remaining_ms = remaining_ms
        self._deadline = deadline
        self.now_ms = now_ms

    def is_over(self) -> bool:
        """Tell whether no write may start any more: the deadline has passed."""
        return self._deadline.has_passed(self.now_ms())

    def allows(self, wait_ms: float, reserve_ms: int) -> bool:
        """Tell whether after such a wait writes may still start, and Lambda leaves the invocation this reserve."""
        is_before = self._deadline.remaining_ms(self.now_ms()) > wait_ms
        return is_before and self._remaining_ms() - wait_ms >= reserve_ms


def unbounded() -> TimeLeft:
    """Return the time of a call that no batch waits for."""
    return TimeLeft(lambda: UNBOUNDED_MS, Deadline(), lambda: 0)


def past_deadline(reason: str) -> str:
    """Return why something was not written: the deadline, and what went wrong before it, "" for nothing."""
    return f"{DEADLINE_PASSED}; before that: {reason}" if reason else DEADLINE_PASSED


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
