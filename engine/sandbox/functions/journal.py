"""The runtime's journal: one JSON line for each invocation that has ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import orjson

FLUSH_S = 0.02
BUFFERED_BYTES_MAX = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """An invocation that has ended. ``records`` is None if nobody has parsed the payload yet."""

    function: str
    started_ns: int
    ended_ns: int
    status: int
    error: str
    payload: bytes
    records: int | None


class _Batch(msgspec.Struct):
    """As much of an event as counting its records takes; the rest is skipped, not built."""

    records: list[msgspec.Raw]


_decoder = msgspec.json.Decoder(_Batch)


def count_records(payload: bytes) -> int:
    """Return how many records a payload brings; 1 if it is not a batch."""
    try:
        return len(_decoder.decode(payload).records)
    except msgspec.DecodeError:
        return 1


class Journal:
    """Buffers entries for a moment, so that a burst costs one write."""

    def __init__(self, path: Path, *, payloads: bool) -> None:
        self._file = path.open("ab")
        self._payloads = payloads
        self._entries: list[Entry] = []
        self._buffered_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def note(self, entry: Entry) -> None:
        """Add an invocation."""
        self._entries.append(entry)
        self._buffered_bytes += len(entry.payload)
        if self._buffered_bytes > BUFFERED_BYTES_MAX:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write what is buffered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        entries, self._entries, self._buffered_bytes = self._entries, [], 0
        if entries:
            self._file.write(b"".join(self._line(entry) for entry in entries))
            self._file.flush()

    def close(self) -> None:
        """Write what is buffered, for the last time."""
        self.flush()
        self._file.close()

    def _line(self, entry: Entry) -> bytes:
        line: dict[str, Any] = {
            "function": entry.function,
            "started_ns": entry.started_ns,
            "ended_ns": entry.ended_ns,
            "status": entry.status,
            "error": entry.error,
            "payload_bytes": len(entry.payload),
            "records": count_records(entry.payload) if entry.records is None else entry.records,
        }
        if self._payloads:
            line["event"] = _event(entry.payload)
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _event(payload: bytes) -> Any:
    """Return the payload for a journal line as it came, without parsing it twice; None if it is not JSON."""
    try:
        msgspec.json.decode(payload, type=msgspec.Raw)
    except msgspec.DecodeError:
        return None
    # Line breaks in JSON stand between tokens only; in a journal line they must not stand at all.
    return orjson.Fragment(payload.replace(b"\n", b" ").replace(b"\r", b" "))
