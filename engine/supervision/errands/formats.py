"""Which version of its format each state file has, and whether this engine reads it.

Each format has a number that only grows. An engine reads its own and all earlier ones, and leaves a newer one alone:
what it does not know about that one would be lost or misread.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from engine import __version__
from engine.audit.deletions import FORMAT as HELD_FORMAT
from engine.config import Settings
from engine.delivery.backlog.file import VERSION as BACKLOG_FORMAT
from engine.errors import Problem
from engine.supervision.progress.checkpoint import FORMAT as CHECKPOINT_FORMAT
from engine.supervision.progress.checkpoint import data_of

_SQLITE_MAGIC = b"SQLite format 3\0"
_USER_VERSION = slice(60, 64)
"""Where SQLite keeps the number: https://www.sqlite.org/fileformat2.html#user_version_number."""


class StateFile(NamedTuple):
    """A file of the engine's state: its format's number (0: can't be told) and the newest that this engine reads."""

    setting: str
    path: str
    format: int
    newest: int

    @property
    def verdict(self) -> Literal["current", "older", "newer", "unknown"]:
        """Return how the format relates to this engine."""
        if not self.format:
            return "unknown"
        if self.format == self.newest:
            return "current"
        return "older" if self.format < self.newest else "newer"


class _Numbered(msgspec.Struct):
    format: int = 1


def state_files(settings: Settings) -> Iterator[StateFile]:
    """Yield the state files that exist; raises OSError if one can't be read."""
    supervision, delivery = settings.supervision, settings.delivery
    checkpoint = Path(supervision.checkpoint_file)
    for path in (checkpoint, Path(f"{checkpoint}.previous")):
        if path.is_file():
            number = _of_checkpoint(path.read_bytes())
            yield StateFile("supervision.checkpoint_file", str(path), number, CHECKPOINT_FORMAT)
    held = Path(f"{checkpoint}.deletions")
    if held.is_file():
        yield StateFile("supervision.checkpoint_file", str(held), _of_json(held.read_bytes()), HELD_FORMAT)
    folder = Path(delivery.backlog_folder)
    for path in sorted(folder.glob("*.sqlite")) if folder.is_dir() else ():
        with path.open("rb") as file:
            number = _of_sqlite(file.read(_USER_VERSION.stop))
        yield StateFile("delivery.backlog_folder", str(path), number, BACKLOG_FORMAT)


def newer_formats(settings: Settings) -> list[Problem]:
    """Return the state files that a newer engine wrote."""
    try:
        found = [one for one in state_files(settings) if one.verdict == "newer"]
    except OSError:
        # What can't be read is a finding of its own (`examine_places`).
        return []
    hint = "start that version again, or move the state away: that is a first start"
    return [
        Problem(
            one.setting,
            f"{one.path} was written by a newer engine: it has format {one.format}, and this version ({__version__}) "
            f"reads up to {one.newest}",
            hint,
        )
        for one in found
    ]


def _of_checkpoint(content: bytes) -> int:
    data = data_of(content)
    return _of_json(data) if data is not None else 0


def _of_json(data: bytes) -> int:
    try:
        return msgspec.json.decode(data, type=_Numbered).format
    except msgspec.MsgspecError:
        return 0


def _of_sqlite(head: bytes) -> int:
    return int.from_bytes(head[_USER_VERSION]) if head.startswith(_SQLITE_MAGIC) else 0
