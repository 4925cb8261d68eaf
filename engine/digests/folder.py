"""Where digests are stored: one file per route and invoker, and which of them a start may believe."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.errors import EngineError

FOLDER = "digests"
"""Within the backlog's folder, which only one engine uses at a time."""
SUFFIX = ".digests"


def path_of(backlog_folder: str, route: str, invoker: int, invokers: int) -> Path:
    """Return the file of one route in one invoker, which counts from 0."""
    name = hashlib.blake2b(route.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return Path(backlog_folder, FOLDER) / f"{name}-invoker-{invoker + 1}-of-{invokers}{SUFFIX}"


def keep_only(backlog_folder: str, invokers: int, *, is_known: bool) -> None:
    """Remove the files that a start with this many invokers must not believe: all of them, unless the state that it
    continues from ``is_known``. Raises EngineError.

    With another number of invokers, keys belong to other invokers: the old files know nothing of what was accepted
    there.
    """
    folder, kept = Path(backlog_folder, FOLDER), f"-of-{invokers}{SUFFIX}"
    try:
        for path in folder.glob(f"*{SUFFIX}"):
            if not (is_known and path.name.endswith(kept)):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise EngineError(
            f"cannot remove outdated digests in {folder}: {error.strerror}", hint="remove the files there"
        ) from error
