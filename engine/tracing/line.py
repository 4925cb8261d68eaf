"""The way of what is traced from invokers to the process that exports them: it never waits, and may lose some, counted.

One pair of datagram sockets, made before the first fork, which all invokers write to. The supervisor holds both ends,
so whoever is replaced finds it as it was. What the system's buffer refuses waits in a bounded list.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from engine.tracing.passage import Passage, encode_passages

PASSAGES_A_MESSAGE = 64
"""Of some 250 bytes each: a message fits a socket's buffer many times over."""
MESSAGE_BYTES_MAX = 1 << 20
PASSAGES_WAITING_MAX = 10_000
_BUFFER_BYTES = 1 << 20


class SpanLine:
    """Both ends of it."""

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.writer.setblocking(False)
        with contextlib.suppress(OSError):
            self.writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)

    def close(self) -> None:
        """Close both ends."""
        self.reader.close()
        self.writer.close()


class Teller:
    """An invoker's end: ``dropped`` is told how many spans nobody will hear of."""

    def __init__(self, writer: socket.socket, dropped: Callable[[int], None]) -> None:
        self._writer = writer
        self._dropped = dropped
        self._waiting: list[Passage] = []

    def tell(self, passage: Passage) -> None:
        """Have this sent with the next `flush`."""
        if len(self._waiting) < PASSAGES_WAITING_MAX:
            self._waiting.append(passage)
        else:
            self._dropped(passage.spans())

    def drop(self, count: int) -> None:
        """Count spans that are not even told."""
        self._dropped(count)

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        waiting, sent = self._waiting, 0
        while sent < len(waiting):
            part = waiting[sent : sent + PASSAGES_A_MESSAGE]
            try:
                self._writer.send(encode_passages(part))
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                # Too long, or the other end is gone: these are lost, and no key is.
                self._dropped(sum(one.spans() for one in part))
            sent += len(part)
        if sent:
            self._waiting = waiting[sent:]
