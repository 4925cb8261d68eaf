"""The files that a handler was imported from: noticed when one of them changes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

FILES_MAX = 500
_NOT_OURS = {"site-packages", "dist-packages"}

_Signature = tuple[int, int] | None


def sources_of(module: str) -> list[str]:
    """Return the files of a module that was imported, and of all that it imported from its own folder."""
    file = getattr(sys.modules[module], "__file__", None)
    if file is None:
        return []
    root = Path(file).resolve().parents[module.count(".")]
    files = (getattr(other, "__file__", None) for other in list(sys.modules.values()))
    paths = (Path(name).resolve() for name in files if name)
    ours = {path for path in paths if path.is_relative_to(root) and not _NOT_OURS & set(path.parts)}
    return sorted(map(str, ours))[:FILES_MAX]


class Sources:
    """Files, and how each was when it was last looked at."""

    def __init__(self) -> None:
        self._known: dict[str, _Signature] = {}

    def note(self, files: Iterable[str]) -> None:
        """Look at these from now on, too."""
        for file in files:
            self._known.setdefault(file, _signature(file))

    def changed(self) -> list[str]:
        """Return those that are not as they were at the last look."""
        now = {file: _signature(file) for file in self._known}
        changed = [file for file, signature in now.items() if signature != self._known[file]]
        self._known = now
        return changed


def _signature(file: str) -> _Signature:
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
