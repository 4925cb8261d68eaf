"""Statements → the server, each driven until it is done: the one layer that retries."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from lambdas.aurora_mysql.connection import Connection
from lambdas.aurora_mysql.errors import GivenUp, Nature, ServerError
from lambdas.aurora_mysql.settings import Settings
from lambdas.contract import DestinationUnavailable
from lambdas.repeats import Repeats, TimeLeft, TooLate, past_deadline

T = TypeVar("T")


class Caller:
    """Runs statements on the container's connection.

    Raises `SetupError` if no statement can succeed, `DestinationUnavailable` where none can now, `GivenUp` where
    time or attempts are used up, and `ServerError` if the server refuses what is in the statement.
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
        self._repeats = Repeats(settings, sleep, rng)

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
        reason, number, nature = "", 0, Nature.PASSING
        for attempt in range(self._settings.attempts_max):
            if attempt and not self._repeats.pause(attempt, time_left):
                break
            try:
                self._connection.ready()
                # To connect takes time, so this is asked last.
                if time_left.is_over():
                    raise GivenUp(past_deadline(reason), number)
                time_left.call_ms(self._settings.read_timeout_ms)
                return call()
            except TooLate as late:
                raise GivenUp(past_deadline(reason, str(late)), number) from None
            except ServerError as error:
                if error.nature is Nature.SETUP:
                    raise error.setup_error() from None
                if error.nature is Nature.ROWS:
                    raise
                reason, number, nature = error.message, error.number, error.nature
        if nature is Nature.CALL:
            raise DestinationUnavailable(reason)
        raise GivenUp(reason, number)
