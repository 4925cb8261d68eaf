"""What the supervisor says to the console, over the pipe that ends with the supervisor: the level of the log."""

from __future__ import annotations

import contextlib
import os
import select

from engine.observe import logs

_LINE_END = b"\n"
_READ_BYTES = 4_096


class Lifeline:
    """The console's end of the pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._received = b""
        self.is_over = False
        """Whether the supervisor is gone."""

    def fileno(self) -> int:
        """Return the descriptor to wait on; once it is readable, `heed` wants to be called."""
        return self._descriptor

    def wait(self, limit_s: float | None = None) -> bool:
        """Heed what is said for so long, None forever; return True as soon as the supervisor is gone."""
        while select.select([self._descriptor], [], [], limit_s)[0]:
            if self.heed():
                return True
            if limit_s is not None:
                break
        return self.is_over

    def heed(self) -> bool:
        """Do what was said; return True if the supervisor is gone."""
        data = b""
        with contextlib.suppress(OSError):
            data = os.read(self._descriptor, _READ_BYTES)
        self.is_over = not data
        *lines, self._received = (self._received + data).split(_LINE_END)
        for line in lines[-1:]:
            logs.set_level(line.decode())
        return self.is_over


def say_level(descriptor: int, level: str) -> None:
    """Have the console write lines of this level and above; it is not waited for."""
    with contextlib.suppress(OSError):
        os.write(descriptor, level.encode() + _LINE_END)
