"""The settings file, watched: if its content may have changed, its routes are read again as after SIGHUP."""

from __future__ import annotations

from pathlib import Path

LOOK_MS = 1_000


class WatchedFile:
    """A file that is looked at once a second; by its identity, size and time, through links.

    A volume of Kubernetes shows new content by another link, an editor by another file, ``>`` by another time. What was
    written a moment ago may be incomplete, so a change counts once two looks have seen the same.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known = self._seen = self._look()
        self._due_ms = 0

    def has_changed(self, now_ms: int) -> bool:
        """Tell, once per change, that the file has changed."""
        if self._path is None or now_ms < self._due_ms:
            return False
        self._due_ms = now_ms + LOOK_MS
        seen, self._seen = self._seen, self._look()
        # A file that is away for a moment is being replaced.
        if not self._seen or self._seen != seen or self._seen == self._known:
            return False
        self._known = self._seen
        return True

    def _look(self) -> tuple[int, ...]:
        if self._path is None:
            return ()
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
