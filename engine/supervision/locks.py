"""Locks on what two engines must not share: a checkpoint, a backlog. They die with their holder, however that ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from engine.config import Settings
from engine.errors import EngineError


class FileLock:
    """A lock file beside the file or within the folder that it guards, held until `close`.

    The file stays there, and means nothing by itself.
    """

    def __init__(self, guarded: str, setting: str, *, is_folder: bool = False) -> None:
        """Take the lock; raise EngineError if another engine has it, or if it can't be made."""
        path = Path(guarded, "lock") if is_folder else Path(f"{guarded}.lock")
        self._descriptor = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise EngineError(
                f"another engine uses {guarded}", hint=f"stop it, or give this one its own {setting}"
            ) from None
        except OSError as error:
            self.close()
            raise EngineError(
                f"cannot lock {path}: {error.strerror}", hint=f"set {setting} to another place"
            ) from error

    def close(self) -> None:
        """Close the descriptor; the lock stays as long as another process has it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Locks:
    """All locks of an engine."""

    def __init__(self, settings: Settings) -> None:
        self._held: list[FileLock] = []
        try:
            self._held.append(FileLock(settings.supervision.checkpoint_file, "supervision.checkpoint_file"))
            self._held.append(FileLock(settings.delivery.backlog_folder, "delivery.backlog_folder", is_folder=True))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release all."""
        for lock in self._held:
            lock.close()
