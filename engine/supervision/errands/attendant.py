"""A process beside the children that nothing depends on: it is replaced when it ends, which harms nothing."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterable

from engine.clock import monotonic_ms
from engine.config import LogSettings, Settings, SupervisionSettings
from engine.console.lifeline import say_level
from engine.delivery.lanes.retry import Backoff
from engine.observe import logs
from engine.supervision.memory import SharedMemory
from engine.supervision.process import Closable, ends_within, fork_process, kill

log = logs.get_logger(__name__)

HEALTHY_MS = 30_000
"""One that lived for this long is replaced with the shortest backoff."""
SENDING_S_MAX = 2.0
"""How long the end of the engine waits for what the console still has to send."""


def console_of(settings: Settings, inherited: Callable[[], Iterable[Closable]], memory: SharedMemory) -> Attendant:
    """Return what keeps the console running, if the settings ask for it, or for something to be sent.

    It reads the counters in ``memory``, which is read-only for it, and the spans that invokers report.
    """

    def work(lifeline: int) -> int:
        from engine.console.run import run_console

        memory.make_read_only()
        spans = memory.spans.reader if memory.spans is not None else None
        return run_console(settings, lifeline, memory.board.rows, spans)

    wanted = work if settings.console.listen or settings.otlp.is_on else None
    patience_s = SENDING_S_MAX if settings.otlp.is_on else 0.0
    return Attendant("console", settings.log, settings.supervision, inherited, wanted, patience_s)


class Attendant:
    """``work`` is given the lifeline, a descriptor that is at its end once the supervisor is gone; None: no process.

    It has ``patience_s`` to end by itself once it is to end.
    """

    def __init__(
        self,
        name: str,
        log_settings: LogSettings,
        limits: SupervisionSettings,
        inherited: Callable[[], Iterable[Closable]],
        work: Callable[[int], int] | None,
        patience_s: float = 0.0,
    ) -> None:
        self._name, self._log_settings, self._inherited, self._work = name, log_settings, inherited, work
        self._backoff = Backoff(limits.restart_backoff_ms_min, limits.restart_backoff_ms_max)
        self._patience_s = patience_s
        self.pid = 0
        self._lifeline = -1
        self._failures = 0
        self._forked_ms = self._due_ms = 0

    def turn(self, moment_ms: int) -> None:
        """Start the process, if there is none and it is time."""
        main = self._work
        if main is None or self.pid or moment_ms < self._due_ms:
            return
        self._forked_ms = moment_ms
        theirs, ours = os.pipe()
        os.set_blocking(ours, False)

        def work() -> int:
            os.close(ours)
            return main(theirs)

        try:
            self.pid = fork_process(self._name, work, self._log_settings, self._inherited())
            self._lifeline = ours
        except OSError as error:
            os.close(ours)
            log.error("fork_failed", child=self._name, error=error.strerror)
            self._retry(moment_ms)
        finally:
            os.close(theirs)

    def ended(self, pid: int) -> bool:
        """Take in that a process was reaped; tell whether it was this one."""
        if not pid or pid != self.pid:
            return False
        log.warning("attendant_ended", child=self._name, pid=pid)
        self.pid = 0
        self.close()
        moment_ms = monotonic_ms()
        if moment_ms - self._forked_ms >= HEALTHY_MS:
            self._failures = 0
        self._retry(moment_ms)
        return True

    def _retry(self, moment_ms: int) -> None:
        self._failures += 1
        self._due_ms = moment_ms + self._backoff.wait_ms(self._failures, random.random)

    def switch_level(self) -> None:
        """Make its log level the same as this process's."""
        if self._lifeline >= 0:
            say_level(self._lifeline, logs.level())

    def stop(self) -> None:
        """End it for good; it is reaped with the children if it takes longer than its patience."""
        self.close()
        if self.pid and not (self._patience_s and ends_within(self.pid, self._patience_s)):
            kill(self.pid)

    def close(self) -> None:
        """Close our end of the lifeline."""
        lifeline, self._lifeline = self._lifeline, -1
        if lifeline >= 0:
            with contextlib.suppress(OSError):
                os.close(lifeline)
