"""Dead letters in a file that a running engine appends to.

The file is claimed by renaming it, under its lock; the engine begins a new one. In the end, what was not sent is
appended to the new file, and only then is the claimed file removed. So a redrive that is killed leaves its letters in
``<file>.redriving``, and the next one begins with those. Each letter is always in at least one of the files; after a
kill, some may be in both.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from engine.delivery.failures.dead_letter import append_lines, open_locked
from engine.redrive.source import Item, SourceError, in_chunks

LINE_BYTES_MAX = 64 * 1024 * 1024
"""A longer line is not a letter: it is read, and kept, in pieces."""

_SUFFIX = ".redriving"
_BLOCK_BYTES = 1 << 20


class _Claim:
    """A claimed file, and which of its bytes are finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BinaryIO = path.open("rb")
        self.size = os.fstat(self.file.fileno()).st_size
        self._done = array("Q")
        """Start and end of what is finished, in order."""

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield each line that is not empty, and where it starts."""
        position = 0
        while line := self.file.readline(LINE_BYTES_MAX):
            if line.strip():
                yield position, line
            position += len(line)

    def done(self, start: int, end: int) -> None:
        """Note a line that need not be put back; in order."""
        if self._done and self._done[-1] == start:
            self._done[-1] = end
        else:
            self._done.extend((start, end))

    def is_whole(self) -> bool:
        """Tell whether all of it is to be put back."""
        return not self._done

    def rest(self) -> Iterator[bytes]:
        """Yield what is to be put back, in blocks."""
        position = 0
        for start, end in zip([*self._done[::2], self.size], [*self._done[1::2], self.size], strict=True):
            self.file.seek(position)
            while position < start:
                block = self.file.read(min(_BLOCK_BYTES, start - position))
                if not block:
                    return
                yield block
                position += len(block)
            position = end

    def is_empty(self) -> bool:
        """Tell whether nothing is to be put back."""
        return all(not block.strip() for block in self.rest())


class FileSource:
    """One file; ``is_named`` says that the user named it, so that it must be there."""

    def __init__(self, path: str, *, is_named: bool = False) -> None:
        self.name = path
        # A link stays in place: its target is claimed.
        self._path = Path(path).resolve()
        self._is_named = is_named
        self._lock = -1
        self._claims: list[_Claim] = []

    def open(self) -> None:
        """Claim the file, and what a killed redrive left behind."""
        try:
            self._lock_folder()
            if self._lock >= 0:
                self._claim()
        except OSError as error:
            raise SourceError(
                f"{self._path}: cannot be claimed: {error.strerror or error}",
                hint="who may read the file, and write to its folder?",
            ) from error
        if self._is_named and not self._claims:
            raise SourceError(f"{self._path}: no such file", hint="see delivery.dead_letter_file")

    def _lock_folder(self) -> None:
        """Keep a second redrive out. The lock on the folder leaves nothing behind, and nobody else uses it."""
        try:
            self._lock = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SourceError(
                f"{self._path}: another redrive is at work in this folder", hint="wait until it has ended"
            ) from None

    def _claim(self) -> None:
        leftover = re.compile(re.escape(self._path.name + _SUFFIX) + r"(-\d+)?")
        for path in sorted(self._path.parent.iterdir()):
            if not leftover.fullmatch(path.name):
                continue
            if self._path.exists() and self._path.samefile(path):
                path.unlink()  # it was already put back, but still has its second name
            else:
                self._claims.append(_Claim(path))
        if not self._path.exists():
            return
        # The lock waits for a write in progress.
        descriptor = open_locked(self._path)
        try:
            path = self._free_name()
            self._path.rename(path)
        finally:
            os.close(descriptor)
        self._claims.append(_Claim(path))

    def _free_name(self) -> Path:
        path, number = self._path.with_name(f"{self._path.name}{_SUFFIX}"), 1
        while path.exists():
            number += 1
            path = self._path.with_name(f"{self._path.name}{_SUFFIX}-{number}")
        return path

    def total(self) -> int | None:
        """Return how many bytes are claimed."""
        return sum(claim.size for claim in self._claims)

    def chunks(self) -> Iterator[list[Item]]:
        """Yield the lines, in the files' order."""
        try:
            yield from in_chunks(self._items())
        except OSError as error:
            raise SourceError(f"{self._path}: cannot be read: {error.strerror}", hint="see the system's log") from error

    def _items(self) -> Iterator[Item]:
        for index, claim in enumerate(self._claims):
            for position, line in claim.lines():
                yield Item((index, position), line, len(line))

    def remove(self, items: Sequence[Item]) -> None:
        """Note lines that need not be put back."""
        for item in items:
            index, position = item.token
            self._claims[index].done(position, position + len(item.content))

    def close(self) -> str:
        """Put back what was not removed; what can't be put back stays where the next redrive finds it."""
        problem = ""
        for claim in self._claims:
            try:
                problem = self._put_back(claim) or problem
            except OSError as error:
                problem = f"{error.strerror or error}"
            claim.file.close()
        self._claims = []
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if problem:
            return f"{self._path}: what was not sent stays in {self._path.name}{_SUFFIX}: {problem}"
        return ""

    def _put_back(self, claim: _Claim) -> str:
        if claim.is_empty():
            claim.path.unlink()
            return ""
        if claim.is_whole() and self._link(claim):
            return ""
        descriptor = open_locked(self._path)
        try:
            if not os.fstat(descriptor).st_size:
                _give_to_owner_of(claim, descriptor)
            if problem := append_lines(descriptor, claim.rest(), self._path):
                return problem
        finally:
            os.close(descriptor)
        claim.path.unlink()
        return ""

    def _link(self, claim: _Claim) -> bool:
        """Give an unchanged file its name back, unless there is a new one."""
        try:
            os.link(claim.path, self._path)
        except OSError:
            return False  # also if the file system has no links
        claim.path.unlink()
        return True


def _give_to_owner_of(claim: _Claim, descriptor: int) -> None:
    """Let the engine append to a file that we created, though it may run as another user."""
    was = os.fstat(claim.file.fileno())
    if was.st_uid != os.geteuid():
        with contextlib.suppress(OSError):
            os.fchown(descriptor, was.st_uid, was.st_gid)
