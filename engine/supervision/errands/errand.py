"""A process that does something on the supervisor's behalf, and answers: the planner, the comparer."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterable

from engine.config import LogSettings
from engine.supervision.errands.planner import Answer, PlannerProcess
from engine.supervision.process import Closable


class Errand:
    """One kind of errand; at most one of it is under way."""

    def __init__(
        self,
        name: str,
        settings: LogSettings,
        selector: selectors.BaseSelector,
        inherited: Callable[[], Iterable[Closable]],
    ) -> None:
        self._name = name
        self._settings = settings
        self._selector = selector
        self._inherited = inherited
        self.process: PlannerProcess | None = None

    def start(self, work: Callable[[], Answer], give_up_ms: int) -> None:
        """Begin; raise EngineError if that is not possible."""
        assert self.process is None
        self.process = PlannerProcess(work, self._settings, self._inherited(), give_up_ms, name=self._name)
        self._selector.register(self.process, selectors.EVENT_READ)

    def poll(self, now_ms: int) -> Answer | None:
        """Return the answer, once; None while there is none."""
        if self.process is None or not self.process.poll(now_ms):
            return None
        answer = self.process.answer
        self.stop()
        return answer

    def ended(self, pid: int) -> bool:
        """Take in that a process was reaped; tell whether it was this one."""
        is_ours = self.process is not None and self.process.pid == pid
        if self.process is not None and is_ours:
            self.process.is_reaped = True
        return is_ours

    def stop(self) -> None:
        """End it, if it has not ended by itself; it is reaped with the other children."""
        process, self.process = self.process, None
        if process is not None:
            self._selector.unregister(process)
            process.stop()
            process.close()
