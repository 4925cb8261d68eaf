"""What users decide about held deletions: the supervisor reads it from a file that ``engine deletions`` changes."""

from __future__ import annotations

from engine.audit.deletions import Held
from engine.audit.held_file import HeldFile
from engine.errors import EngineError
from engine.observe import logs
from engine.supervision.errands.comparer import Comparer

log = logs.get_logger(__name__)

CHILD = -1
"""Who asks for the comparison that carries out a decision: none of the children."""


class Choices:
    """The file as it was read last."""

    def __init__(self, file: HeldFile) -> None:
        self._file = file
        self._stamp = 0
        self.held = Held()
        self._wishes = 0

    def turn(self, comparer: Comparer, now_ms: int) -> None:
        """Read the file if it has changed, and have a comparison carry out what was decided."""
        stamp = self._file.stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.held = self._file.load()
        except EngineError as error:
            log.error("deletions_unreadable", error=error.message, hint=error.hint)
            return
        if self.held.has_choice:
            self._wishes += 1
            comparer.want(CHILD, self._wishes, now_ms)
