"""What users decide of held deletions, as the supervisor learns of it: a file that ``engine deletions`` changes."""

from __future__ import annotations

from engine.audit.deletions import Held
from engine.audit.held_file import HeldFile
from engine.errors import EngineError
from engine.observe import logs

log = logs.get_logger(__name__)

CHILD = -1
"""Who wants the comparison that does what was decided: none of the children."""


class Choices:
    """The file as it was read last."""

    def __init__(self, file: HeldFile) -> None:
        self._file = file
        self._stamp = 0
        self.held = Held()
        self.wishes = 0
        """The number of the newest wish to do what was decided."""

    def look(self) -> bool:
        """Read the file where it has changed; return True where a comparison should do what was decided."""
        stamp = self._file.stamp()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self.held = self._file.load()
        except EngineError as error:
            log.error("deletions_unreadable", error=error.message, hint=error.hint)
            return False
        self.wishes += self.held.has_choice
        return self.held.has_choice
