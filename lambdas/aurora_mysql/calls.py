"""Statements → the server, each driven until it is done: the one layer that retries."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from lambdas.aurora_mysql.connection import Connection
from lambdas.aurora_mysql.errors import GivenUp, Nature, ServerError
from lambdas.aurora_mysql.settings import Settings
from lambdas.contract import Deadline

DEADLINE_PASSED = "the batch's deadline has passed"

T = TypeVar("T")


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


class Caller:
    """Runs statements on the container's connection.

    Raises `SetupError` where no statement can succeed, `GivenUp` where time or attempts are used up, and `ServerError`
    where the server refuses what is in the statement.
    """

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._sleep = sleep
        self._rng = rng

    def run(self, sql: str, time_left: TimeLeft) -> None:
        """Run a statement that is safe to repeat: after a lost connection nobody knows whether it took effect."""
        self._drive(lambda: self._connection.execute(sql), time_left)

    def query(self, sql: str, time_left: TimeLeft) -> tuple[tuple[Any, ...], ...]:
        """Run a statement; return its rows."""
        return self._drive(lambda: self._connection.query(sql), time_left)

    def packet_bytes_max(self, time_left: TimeLeft) -> int:
        """Return how long a statement the server takes, in bytes."""
        return self._drive(lambda: self._connection.packet_bytes_max, time_left)

    def _drive(self, call: Callable[[], T], time_left: TimeLeft) -> T:
        reason, number = "", 0
        for attempt in range(self._settings.attempts_max):
            if attempt and not self._pause(attempt, time_left):
                break
            try:
                self._connection.ready()
                # To connect takes time, so this is asked last.
                if time_left.is_over():
                    raise GivenUp(f"{DEADLINE_PASSED}; before that: {reason}" if reason else DEADLINE_PASSED, number)
                return call()
            except ServerError as error:
                if error.nature is Nature.SETUP:
                    raise error.setup_error() from None
                if error.nature is Nature.ROWS:
                    raise
                reason, number = error.message, error.number
        raise GivenUp(reason, number)

    def _pause(self, attempt: int, time_left: TimeLeft) -> bool:
        """Wait before a repeat: exponential backoff, full jitter; False, at once, where there is no time for it."""
        settings = self._settings
        bound_ms = min(settings.backoff_ms_max, settings.backoff_ms_min << (attempt - 1))
        wait_ms = self._rng() * bound_ms
        if not time_left.allows(wait_ms, settings.reserve_ms):
            return False
        self._sleep(wait_ms / 1_000)
        return True
