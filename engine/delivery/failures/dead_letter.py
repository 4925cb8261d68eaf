"""Records that are given up on: what is kept of each, and the local file that keeps them, one JSON object per line."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import msgspec

from engine.delivery.lanes.work import Entry
from engine.delivery.reading.values import key_text
from engine.model import Failure, Outcome
from engine.routing.databases import named

WRITE_BYTES_MAX = 1 << 20
"""About the most that one system call has to write."""

_OPEN_ATTEMPTS_MAX = 100
_PLACE_HINT = "check that there is space and that the engine may write there; see delivery.dead_letter_file"
_FULL_HINT = "engine redrive sends them again, and empties it"


class DeadLetter(msgspec.Struct, omit_defaults=True):
    """One record that was given up on: a JSON object.

    ``record`` is the record as it was sent to the function, and is absent if its value could not be read; ``failure``
    is the kind of the last failure (`engine.model.Failure`, in lower case), empty if nothing was invoked. ``db`` is
    the key's database. ``truncated`` says that the place was too small for the record's body, or for the whole record.
    """

    at_ms: int
    route: str
    function: str
    id: str
    event: str
    captured_at_ms: int
    attempts: int
    reason: str
    id_encoding: str = ""
    failure: str = ""
    truncated: bool = False
    db: int | msgspec.UnsetType = msgspec.UNSET
    record: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


encode_letter = msgspec.json.Encoder().encode


def letters_of(
    route: str,
    function: str,
    entries: Sequence[Entry],
    records: Sequence[bytes | None],
    attempts: int,
    outcome: Outcome,
    now_ms: int,
    database: int | None = 0,
) -> list[DeadLetter]:
    """Return the letters of these entries; ``records`` holds each one's JSON as it was sent, None if there is none.

    ``outcome`` says why: its failure and its reason. ``database`` is that of all keys, None if each names its own.
    """
    failure = "" if outcome.failure is Failure.NONE else outcome.failure.name.lower()
    letters = []
    for (known_as, cause), record in zip(entries, records, strict=True):
        db, key = named(database, known_as)
        text, encoding = key_text(key)
        letters.append(
            DeadLetter(
                now_ms, route, function, text, cause.event, cause.captured_ms, attempts, outcome.reason, encoding,
                failure, record=msgspec.UNSET if record is None else msgspec.Raw(record), db=db,
            )
        )  # fmt: skip
    return letters


class FileSink:
    """Appends to a file that several invokers share, in whole lines or not at all.

    ``bytes_max`` bounds the file: past it, or on a full disk, `write` refuses, and the records stay with the engine,
    which keeps trying. Others may rename the file at any moment, with its lock held: a new one is then begun.
    """

    def __init__(self, path: str, bytes_max: int) -> None:
        self._path = Path(path)
        self._bytes_max = bytes_max

    def write(self, letters: Sequence[DeadLetter]) -> str:
        """Keep these letters; return "" when they are on disk, else why they are not."""
        lines = [encode_letter(letter) + b"\n" for letter in letters]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = open_locked(self._path)
            try:
                size = os.fstat(descriptor).st_size
                if size + sum(map(len, lines)) > self._bytes_max:
                    return f"{self._path}: full at delivery.dead_letter_bytes_max = {self._bytes_max} ({_FULL_HINT})"
                return append_lines(descriptor, lines, self._path)
            finally:
                os.close(descriptor)
        except OSError as error:
            return f"{self._path}: {error.strerror} ({_PLACE_HINT})"


def open_locked(path: Path) -> int:
    """Open the file at this path to append to it, make it if it is not there, and lock it; raise OSError.

    Closing it ends the lock. The lock is waited for; whoever renames the file does so under it.
    """
    for _ in range(_OPEN_ATTEMPTS_MAX):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # While we waited it may have been renamed, and what is appended then would never be read.
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise OSError(0, "keeps being replaced")


def append_lines(descriptor: int, lines: Iterable[bytes], path: Path) -> str:
    """Append to an open, locked file; return "" when all is on disk; else why not, and then nothing was appended.

    May raise OSError; nothing was appended then either.
    """
    size = os.fstat(descriptor).st_size
    try:
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            # A host that crashed during a write left half a line; ours must not become part of it.
            lines = chain((b"\n",), lines)
        for piece in _pieces(lines):
            if os.write(descriptor, piece) != len(piece):
                os.ftruncate(descriptor, size)
                return f"{path}: the disk is full"
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise
    if not size:
        _sync_folder(path)
    return ""


def _pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Join lines into pieces that are each worth a system call."""
    waiting: list[bytes] = []
    size = 0
    for line in lines:
        waiting.append(line)
        size += len(line)
        if size >= WRITE_BYTES_MAX:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sync_folder(path: Path) -> None:
    """Make the file's name as durable as what it holds."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
