"""The way to the Lambda service, with one function cut off: its connections break before they carry anything.

A proxy in a process of its own. A connection belongs to the function that its first request names: the engine's lanes
share none.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import socket
import struct
from pathlib import Path
from urllib.parse import urlsplit

LOOK_S = 0.05
CHUNK_BYTES = 1 << 18
_LINGER_NOT = struct.pack("ii", 1, 0)
_fork = multiprocessing.get_context("fork")


class Cut:
    """Stands before ``endpoint``; a function's connections break while the file ``marker`` is there."""

    def __init__(self, endpoint: str, function: str, marker: Path) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._process = _fork.Process(target=_run, args=(listener, endpoint, function, marker), daemon=True)
        self._process.start()
        listener.close()

    def close(self) -> None:
        """End it, and every connection with it."""
        self._process.kill()
        self._process.join()


def _run(listener: socket.socket, endpoint: str, function: str, marker: Path) -> None:
    place = urlsplit(endpoint)
    assert place.hostname is not None and place.port is not None
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_Proxy(place.hostname, place.port, f"/functions/{function}/".encode(), marker).serve(listener))


class _Proxy:
    def __init__(self, host: str, port: int, name: bytes, marker: Path) -> None:
        self._host, self._port, self._name, self._marker = host, port, name, marker
        self._open: set[asyncio.StreamWriter] = set()
        """Connections of the function that is cut off at times."""

    async def serve(self, listener: socket.socket) -> None:
        await asyncio.start_server(self._connected, sock=listener, limit=CHUNK_BYTES)
        while True:
            await asyncio.sleep(LOOK_S)
            if self._marker.exists():
                for writer in list(self._open):
                    _reset(writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            line = await reader.readuntil(b"\n")
            if self._name in line:
                if self._marker.exists():
                    _reset(writer)
                    return
                self._open.add(writer)
            back, forth = await asyncio.open_connection(self._host, self._port, limit=CHUNK_BYTES)
            forth.write(line)
            await asyncio.gather(_pump(reader, forth), _pump(back, writer))
        self._open.discard(writer)
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes until there are no more, and close behind them."""
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()
