"""What handlers print, line by line, with the function's name before it."""

from __future__ import annotations

import asyncio
import sys

LINE_BYTES_MAX = 16 * 1024


def say(name: str, text: str) -> None:
    """Write a line of our own about a function."""
    sys.stderr.buffer.write(f"[{name}] {text}\n".encode(errors="backslashreplace"))
    sys.stderr.buffer.flush()


class LogLines(asyncio.Protocol):
    """Copies a worker's output to our standard error; longer lines are cut into several."""

    def __init__(self, name: str) -> None:
        self._prefix = f"[{name}] ".encode()
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        """Write what is complete."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            lines.append(self._rest)
            self._rest = b""
        self._write(lines)

    def connection_lost(self, error: Exception | None) -> None:
        """Write what a worker left without an end of line."""
        if self._rest:
            self._write([self._rest])

    def _write(self, lines: list[bytes]) -> None:
        if lines:
            sys.stderr.buffer.write(b"".join(self._prefix + line + b"\n" for line in lines))
            sys.stderr.buffer.flush()
