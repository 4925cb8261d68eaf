"""An event loop in a thread of its own, for proxies whose owner is ordinary blocking code."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

CALL_S_MAX = 15.0
_BACKLOG = 256
_LINGER_NOT = struct.pack("ii", 1, 0)

Result = TypeVar("Result")


class LoopThread:
    """A loop that runs until it is closed. All state of a proxy is touched on it alone."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def await_(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine on the loop, from another thread, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(CALL_S_MAX)

    def call(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function on the loop, from another thread, and return its result."""

        async def called() -> Result:
            return function(*args)

        return self.await_(called())

    def close(self) -> None:
        """Cancel what still runs, and end the thread."""

        async def cancel() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        if self.loop.is_closed():
            return
        with contextlib.suppress(TimeoutError):
            self.await_(cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(CALL_S_MAX)
        if not self.loop.is_running():
            self.loop.close()


class Door:
    """A listening port that can be shut, so that connections are refused, and opened again.

    A second socket, bound and never listening, keeps it from being given to others as a free one meanwhile.
    """

    def __init__(self, host: str) -> None:
        self._holder = _bound(host, 0)
        self.host, self.port = host, self._holder.getsockname()[1]

    def open(self) -> socket.socket:
        """Return a socket that listens on the port."""
        listener = _bound(self.host, self.port)
        listener.listen(_BACKLOG)
        return listener

    def close(self) -> None:
        """Give the port away."""
        self._holder.close()


def _bound(host: str, port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setblocking(False)
    made.bind((host, port))
    return made


def reset(transport: asyncio.BaseTransport | None) -> None:
    """Break a connection with a RST, whatever is still to be sent."""
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    assert isinstance(transport, asyncio.WriteTransport)
    transport.abort()
