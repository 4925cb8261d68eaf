"""The status file: what an engine reports about itself once a second, and the lock that keeps it the only one."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import EngineError
from engine.observe import logs

log = logs.get_logger(__name__)

PUBLISH_MS = 1_000


class StatusFile:
    """One engine's status file. The lock beside it dies with its holder, however that ends."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._lock_path = Path(f"{path}.lock")
        self._lock = -1

    def acquire(self) -> None:
        """Make this process the owner of the status; raise EngineError if another one runs."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            while not self._try_lock():
                pass
            self._path.unlink(missing_ok=True)
        except BlockingIOError:
            raise EngineError(
                f"another engine runs with the status file {self._path}",
                hint="stop it, or set supervision.status_file to another file for this one",
            ) from None
        except OSError as error:
            self.close()
            raise EngineError(
                f"cannot write the status file {self._path}: {error.strerror}",
                hint="set supervision.status_file to a file that may be written",
            ) from error

    def _try_lock(self) -> bool:
        """Lock the file; False if its last holder removed it meanwhile."""
        lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.path.samestat(os.fstat(lock), self._lock_path.stat())
        except FileNotFoundError:
            is_ours = False
        except BaseException:
            os.close(lock)
            raise
        if is_ours:
            self._lock = lock
        else:
            os.close(lock)
        return is_ours

    def write(self, status: dict[str, Any]) -> None:
        """Replace the status in one step; raises OSError."""
        draft = Path(f"{self._path}.new")
        draft.write_bytes(msgspec.json.encode(status))
        draft.replace(self._path)

    def remove(self) -> None:
        """Remove the status and the lock: no engine runs here any longer."""
        for path in (self._path, self._lock_path):
            with contextlib.suppress(OSError):
                path.unlink()
        self.close()

    def close(self) -> None:
        """Close the descriptor; the lock stays as long as another process has it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class Publisher:
    """Writes the status once a second, and at once if something happened."""

    def __init__(self, file: StatusFile) -> None:
        self._file = file
        self._due_ms = 0
        self._is_refused = False

    def is_due(self, moment_ms: int) -> bool:
        """Tell whether a status should be written now (monotonic milliseconds)."""
        return moment_ms >= self._due_ms

    def hurry(self) -> None:
        """Make the next turn write one: something happened."""
        self._due_ms = 0

    def publish(self, status: dict[str, Any], moment_ms: int) -> None:
        """Write this status; a disk that refuses is reported once, and retried."""
        self._due_ms = moment_ms + PUBLISH_MS
        problem = ""
        try:
            self._file.write(status)
        except OSError as error:
            problem = error.strerror or type(error).__name__
        if problem and not self._is_refused:
            log.error("status_not_written", error=problem)
        self._is_refused = bool(problem)
