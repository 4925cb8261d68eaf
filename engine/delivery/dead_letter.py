"""Records that are given up on, kept in a local file: one JSON line each, with the reason."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.delivery.lane import Entry
from engine.delivery.values import key_text


class DeadLetter(msgspec.Struct, omit_defaults=True):
    """One line of the file. The value is not kept: a redelivery reads the key as it is then."""

    at_ms: int
    route: str
    function: str
    id: str
    event: str
    captured_at_ms: int
    attempts: int
    reason: str
    id_encoding: str = ""


class DeadLetterFile:
    """Appends to a file that several invokers share; a line is written whole or not at all.

    ``bytes_max`` bounds the file: past it, or on a full disk, `write` refuses, and the records stay with
    the engine, which goes on trying.
    """

    def __init__(self, path: str, bytes_max: int) -> None:
        self._path = Path(path)
        self._bytes_max = bytes_max
        self._encode = msgspec.json.Encoder().encode

    def write(
        self, route: str, function: str, entries: Sequence[Entry], attempts: int, reason: str, now_ms: int
    ) -> str:
        """Keep these records; return "" when they are on disk, else why they are not."""
        lines = b"".join(self._line(route, function, entry, attempts, reason, now_ms) for entry in entries)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                return self._append(descriptor, lines)
            finally:
                os.close(descriptor)
        except OSError as error:
            return f"{self._path}: {error.strerror}"

    def _append(self, descriptor: int, lines: bytes) -> str:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        if size + len(lines) > self._bytes_max:
            return f"{self._path}: full at delivery.dead_letter_bytes_max = {self._bytes_max}"
        if os.write(descriptor, lines) != len(lines):
            os.ftruncate(descriptor, size)
            return f"{self._path}: the disk is full"
        os.fsync(descriptor)
        return ""

    def _line(self, route: str, function: str, entry: Entry, attempts: int, reason: str, now_ms: int) -> bytes:
        change = entry[0]
        text, encoding = key_text(change.key)
        letter = DeadLetter(now_ms, route, function, text, change.event, change.captured_ms, attempts, reason, encoding)
        return self._encode(letter) + b"\n"
