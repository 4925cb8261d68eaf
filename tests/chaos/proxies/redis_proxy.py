"""The way from an engine to its server, with faults."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import Callable
from typing import Self

from tests.chaos.proxies.loop import Door, LoopThread, reset

CONNECTIONS_MAX = 500
FAR_BUFFER_BYTES = 64 * 1024
"""Small, so that a stall soon shows in the server's own output buffer."""
_BUFFERED_BYTES_MAX = 256 * 1024

_TIME = re.compile(rb"\*2\r\n\$10\r\n(\d{10})\r\n(?=\$[1-6]\r\n\d{1,6}\r\n)")
_SUBSCRIBE = re.compile(rb"SUBSCRIBE\r\n", re.IGNORECASE)
_TAIL_BYTES = 64


def _beginnings(parts: list[bytes]) -> re.Pattern[bytes]:
    """Return a pattern for any text that ends in a beginning of these parts."""
    pattern = b""
    for part in reversed(parts):
        pattern = b"(?:" + part + pattern + b")?"
    return re.compile(pattern.removesuffix(b"?") + rb"\Z")


# A beginning of TIME's reply at the end of what was received is never the end of a reply: the rest is on its way.
_DIGIT, _LINE = rb"\d", [rb"\r", rb"\n"]
_TIME_BEGINS = _beginnings(
    [
        *(rb"\*", b"2", *_LINE),
        *(rb"\$", b"1", b"0", *_LINE, *10 * [_DIGIT], *_LINE),
        *(rb"\$", b"[1-6]", *_LINE, rb"\d{1,6}", rb"\r"),
    ]
)


class ClockShift:
    """Rewrites the replies of ``TIME`` in a stream of replies.  (pure)"""

    def __init__(self) -> None:
        self.rewritten = 0
        self._held = b""

    def rewrite(self, data: bytes, seconds: int) -> bytes:
        """Return what may be passed on; a reply that is not whole yet is held until it is."""
        data = self._held + data

        def shifted(match: re.Match[bytes]) -> bytes:
            self.rewritten += 1
            return b"*2\r\n$10\r\n%010d\r\n" % (int(match[1]) + seconds)

        end = len(data)
        begun = _TIME_BEGINS.search(data, max(0, len(data) - _TAIL_BYTES))
        if begun is not None:
            end = begun.start()
        self._held = data[end:]
        return _TIME.sub(shifted, data[:end])

    def rest(self) -> bytes:
        """Return what is held, and hold it no more."""
        held, self._held = self._held, b""
        return held


class RedisProxy:
    """A TCP proxy in front of a server on this host, which listens once made; its methods are for other threads.

    ``counts`` tells what it has done: ``accepted``, ``reset``, ``swallowed_bytes``, ``times_shifted``, ``stalls``.
    """

    def __init__(self, target_port: int, host: str = "127.0.0.1") -> None:
        self.counts: Counter[str] = Counter()
        self._target = target_port
        self._door = Door(host)
        self.host, self.port = host, self._door.port
        self._thread: LoopThread | None = None
        self._server: asyncio.Server | None = None
        self.pipes: set[Pipe] = set()
        self.is_black_hole = False
        self.is_stalled = False
        self.shift_s = 0
        self.start()

    @property
    def connections(self) -> int:
        """Return how many connections there are now."""
        return len(self.pipes)

    @property
    def subscriptions(self) -> int:
        """Return how many of them have subscribed to something."""
        return sum(pipe.is_subscription for pipe in list(self.pipes))

    def start(self) -> Self:
        """Listen; does nothing where it already does."""
        if self._thread is None:
            self._thread = LoopThread("redis proxy")
            self._thread.await_(self._listen())
        return self

    def close(self) -> None:
        """Drop everything, and give the port away."""
        if self._thread is not None:
            self._thread.call(self._shut)
            self._thread.call(self._drop_all, False)
            self._thread.close()
            self._thread = None
        self._door.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def retarget(self, port: int, drop: bool = True) -> int:
        """Lead new connections to another server, and drop those that are; return how many were dropped."""

        def change() -> int:
            self._target = port
            return self._drop_all(False) if drop else 0

        return self._running.call(change)

    def reset_all(self) -> int:
        """Break all connections, on both sides, with a RST; return how many there were."""
        return self._running.call(self._drop_all, True)

    def black_hole(self, on: bool) -> int:
        """Swallow all bytes, both ways, and accept without answering; return how many connections there are.

        Turned off, new connections work; one that has lost bytes stays dead and open, as behind a firewall that has
        forgotten it.
        """

        def change() -> int:
            self.is_black_hole = on
            return len(self.pipes)

        return self._running.call(change)

    def shift_time_s(self, seconds: int) -> None:
        """From now on the server's clock seems to be off by so much, to those who ask by ``TIME``."""

        def change() -> None:
            self.shift_s = seconds

        self._running.call(change)

    def refuse(self, on: bool) -> int:
        """Refuse new connections and drop those that are, or listen again; return how many were dropped."""
        if not on:
            self._running.await_(self._listen())
            return 0
        self._running.call(self._shut)
        return self._running.call(self._drop_all, False)

    def stall(self, on: bool) -> int:
        """Read nothing from the server on connections that have subscribed, until turned off; return their number."""

        def change() -> int:
            self.is_stalled = on
            stalled = [pipe for pipe in self.pipes if pipe.is_subscription]
            for pipe in stalled:
                pipe.adjust()
            self.counts["stalls"] += len(stalled) if on else 0
            return len(stalled)

        return self._running.call(change)

    @property
    def _running(self) -> LoopThread:
        assert self._thread is not None, "the proxy is not started"
        return self._thread

    async def _listen(self) -> None:
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: Pipe(self).near, sock=self._door.open())

    def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _drop_all(self, hard: bool) -> int:
        pipes = list(self.pipes)
        for pipe in pipes:
            pipe.drop(hard)
        self.counts["reset"] += len(pipes) if hard else 0
        return len(pipes)

    async def connect(self, far: End) -> None:
        """Connect one end to the server."""
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, FAR_BUFFER_BYTES)
            await loop.sock_connect(sock, (self.host, self._target))
        except BaseException:
            sock.close()
            raise
        await loop.create_connection(lambda: far, sock=sock)


class Pipe:
    """One connection: its near end, to the client, and its far end, to the server."""

    def __init__(self, proxy: RedisProxy) -> None:
        self.proxy = proxy
        self.is_dead = False
        self.is_subscription = False
        self.near = End(self, self._from_client)
        self.far = End(self, self._from_server)
        self._clock = ClockShift()
        self._last_request = b""
        self._connecting: asyncio.Task[None] | None = None

    def opened(self, end: End) -> None:
        """Take note that an end is connected."""
        if end is self.near:
            self.proxy.counts["accepted"] += 1
            if len(self.proxy.pipes) >= CONNECTIONS_MAX:
                reset(end.transport)
                return
            self.proxy.pipes.add(self)
            if self.proxy.is_black_hole:
                self.is_dead = True
            else:
                self._connecting = asyncio.create_task(self._connect())
        # Not at once: asyncio of Python 3.11.2 begins to read after this, whatever was said before.
        asyncio.get_running_loop().call_soon(self.adjust)

    async def _connect(self) -> None:
        try:
            await self.proxy.connect(self.far)
        except OSError:
            self.drop(hard=True)

    def closed(self, end: End) -> None:
        """Close the other end too; a dead connection hides it from the other side."""
        if end is self.near:
            self.proxy.pipes.discard(self)
            if self._connecting is not None:
                self._connecting.cancel()
        if end is self.far and self.is_dead:
            return
        other = self.far if end is self.near else self.near
        if other.transport is not None:
            if end is self.far:
                other.write(self._clock.rest())
            other.transport.close()

    def drop(self, hard: bool) -> None:
        """Break both ends, with a RST or in order."""
        if self._connecting is not None:
            self._connecting.cancel()
        for end in (self.near, self.far):
            if end.transport is not None:
                reset(end.transport) if hard else end.transport.abort()

    def adjust(self) -> None:
        """Read from each end only while the other one can take it."""
        self.near.read(self.is_dead or (self.far.transport is not None and self.far.is_writable))
        is_stalled = self.proxy.is_stalled and self.is_subscription
        self.far.read(self.is_dead or (self.near.is_writable and not is_stalled))

    def _from_client(self, data: bytes) -> None:
        if self._is_swallowed(data):
            return
        recent = self._last_request + data
        if not self.is_subscription and _SUBSCRIBE.search(recent):
            self.is_subscription = True
            self.adjust()
        self._last_request = recent[-_TAIL_BYTES:]
        self.far.write(data)

    def _from_server(self, data: bytes) -> None:
        if self._is_swallowed(data):
            return
        if self.proxy.shift_s:
            before = self._clock.rewritten
            data = self._clock.rewrite(data, self.proxy.shift_s)
            self.proxy.counts["times_shifted"] += self._clock.rewritten - before
        else:
            data = self._clock.rest() + data
        self.near.write(data)

    def _is_swallowed(self, data: bytes) -> bool:
        self.is_dead |= self.proxy.is_black_hole
        if self.is_dead:
            self.proxy.counts["swallowed_bytes"] += len(data)
        return self.is_dead


class End(asyncio.Protocol):
    """One end of a pipe."""

    def __init__(self, pipe: Pipe, received: Callable[[bytes], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_writable = True
        self._pipe = pipe
        self._received = received
        self._is_reading = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(_BUFFERED_BYTES_MAX)
        self.transport = transport
        self._pipe.opened(self)

    def data_received(self, data: bytes) -> None:
        self._received(data)

    def pause_writing(self) -> None:
        self.is_writable = False
        self._pipe.adjust()

    def resume_writing(self) -> None:
        self.is_writable = True
        self._pipe.adjust()

    def connection_lost(self, error: Exception | None) -> None:
        self._pipe.closed(self)

    def write(self, data: bytes) -> None:
        """Send, unless the connection is about to close."""
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def read(self, on: bool) -> None:
        """Read from it, or do not."""
        if self.transport is None or on == self._is_reading or self.transport.is_closing():
            return
        self._is_reading = on
        if on:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()
