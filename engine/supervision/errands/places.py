"""Whether the engine may write to its configured places; tried before anything is written, by a start and by
`engine check`.

What already exists there has to be the engine's own: a mistaken path must not destroy something else. The trial leaves
nothing behind.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from engine.config import Settings
from engine.errors import Problem

ROOM_BYTES_MIN = 1_048_576
"""Less space than this counts as none: the checkpoint is written twice, and the backlog grows by pages."""

_KNOWS_NO_NAMELESS_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
_HEAD_BYTES = 10
_HEX = frozenset(b"0123456789abcdef")
_LEFT_ALONE = frozenset({"lost+found"})


class Place(NamedTuple):
    """A path that a setting names; ``is_ours`` tells by a file's first bytes whether it is the engine's."""

    setting: str
    path: str
    is_ours: Callable[[bytes], bool]
    is_folder: bool = False


def places_of(settings: Settings) -> tuple[Place, ...]:
    """Return all places that an engine with these settings writes to."""
    supervision, delivery = settings.supervision, settings.delivery
    return (
        Place("supervision.checkpoint_file", supervision.checkpoint_file, _is_checkpoint),
        Place("supervision.status_file", supervision.status_file, _is_object),
        Place("delivery.dead_letter_file", delivery.dead_letter_file, _is_object),
        Place("delivery.backlog_folder", delivery.backlog_folder, lambda head: True, is_folder=True),
    )


def _is_checkpoint(head: bytes) -> bool:
    return _HEX.issuperset(head[:8]) and head[8:] in (b" {", b" ", b"")


def _is_object(head: bytes) -> bool:
    return head.startswith(b"{")


def examine_places(settings: Settings) -> list[Problem]:
    """Return what is wrong with any of them."""
    places = places_of(settings)
    problems = list(_twice(places))
    for place in places:
        try:
            problem = _examine(place)
        except OSError as error:
            problem = (
                f"{place.path} can't be written: {error.strerror}",
                "name another place, or grant permission to write it",
            )
        if problem is not None:
            problems.append(Problem(place.setting, *problem))
    return problems


def _twice(places: tuple[Place, ...]) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for place in places:
        known = first.setdefault(place.path, place.setting)
        if known != place.setting:
            yield Problem(place.setting, f"{place.path} is {known} too", "give each a path of its own")


def _examine(place: Place) -> tuple[str, str] | None:
    """Return what is wrong and how to fix it; raises OSError if the system says no."""
    path = Path(place.path)
    try:
        found = path.stat()
    except FileNotFoundError:
        return _try_folder(_nearest(path.parent))
    except NotADirectoryError:
        return f"{place.path} is below a file", "name another place"
    wanted = "a folder" if place.is_folder else "a file"
    if place.is_folder != stat.S_ISDIR(found.st_mode) or not (place.is_folder or stat.S_ISREG(found.st_mode)):
        return f"{place.path} exists, and is not {wanted}", "name another place"
    files = [path] if not place.is_folder else [one for one in path.iterdir() if one.name not in _LEFT_ALONE]
    for file in files:
        owner = file.stat().st_uid
        if owner != os.geteuid():
            hint = "run the engine as that user, or give the file to this one"
            return f"{file} belongs to user {owner}, and the engine runs as user {os.geteuid()}", hint
    if not place.is_folder:
        with path.open("rb+") as opened:
            head = opened.read(_HEAD_BYTES)
        if head and not place.is_ours(head) and not Path(f"{place.path}.lock").exists():
            return f"{place.path} exists, and was not written by an engine", "name another place, or move it away"
    return _try_folder(path if place.is_folder else path.parent)


def _nearest(folder: Path) -> Path:
    """Return the folder, or the closest existing one above it: the others are created."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _try_folder(folder: Path) -> tuple[str, str] | None:
    if not folder.is_dir():
        return f"{folder} is not a folder", "name another place"
    _try_file(folder)
    room = os.statvfs(folder)
    free_bytes = room.f_bavail * room.f_frsize
    if free_bytes < ROOM_BYTES_MIN:
        return f"{folder} has no room: {free_bytes:,} bytes are free", "make room, or name another disk"
    return None


def _try_file(folder: Path) -> None:
    """Create a nameless file there, or, if the file system has none, one that is removed at once."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        return
    except AttributeError:  # not Linux
        pass
    except OSError as error:
        if error.errno not in _KNOWS_NO_NAMELESS_FILES:
            raise
    descriptor, name = tempfile.mkstemp(prefix=".engine-", dir=folder)
    os.close(descriptor)
    Path(name).unlink()
