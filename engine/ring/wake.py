"""Wake-up between processes, without polling: an ``eventfd`` on Linux, a pipe elsewhere.

The writer signals after every flush, whether the reader sleeps or not. A "reader sleeps" word would spare that system
call, but the writer's *store position, then load word* and the reader's *store word, then load position* may each be
reordered by the processor, x86-64 included, and a wake-up be lost; that needs a fence, which Python does not have.

What was written before a signal is seen after the clear that it caused, on Arm too: both are system calls that
take the kernel's lock of the one descriptor.
"""

from __future__ import annotations

import contextlib
import os
import sys

_ONE = (1).to_bytes(8, sys.byteorder)
_CLOSED = -1


class Wake:
    """A flag that a process can wait for in ``poll``; made before the fork, set by many, cleared by one."""

    def __init__(self) -> None:
        if sys.platform == "linux":
            self._read = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """Return the descriptor that is readable while the flag is set."""
        return self._read

    def signal(self) -> None:
        """Set the flag; never blocks (a full pipe is a set flag). Once closed, does nothing: a thread may come late."""
        try:
            os.write(self._write, _ONE)
        except BlockingIOError:
            pass
        except OSError:
            if self._write != _CLOSED:
                raise

    def clear(self) -> None:
        """Clear the flag. Clear first and look for work afterwards, or a signal between the two is lost."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._read, 4_096)) == 4_096:
                pass

    def close(self) -> None:
        """Close the descriptors of this process; does nothing the second time."""
        # Forgotten before they are closed: their numbers may soon be another file's.
        descriptors = {self._read, self._write} - {_CLOSED}
        self._read = self._write = _CLOSED
        for descriptor in descriptors:
            os.close(descriptor)
