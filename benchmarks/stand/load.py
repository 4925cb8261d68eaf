"""Connections, and HSET load as fast as it goes."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import hiredis

from benchmarks.drive.commands import PREFIX
from engine.config import RedisSettings
from engine.redis.connection import RespConnection, pack

Where = int | RedisSettings
"""A server: its port on this machine, or how it is reached."""


def connect(where: Where) -> socket.socket:
    """Return a connection as an application makes one, that blocks; raise `RedisUnreachable` or `RedisRefused`."""
    if isinstance(where, int):
        sock = socket.create_connection(("127.0.0.1", where))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    connection = RespConnection.open(where, name="bench", protocol=2)
    # The engine's connections leave a key's idle time alone, an application's do not.
    connection.call("CLIENT", "NO-TOUCH", "OFF")
    sock = connection.detach()
    sock.settimeout(None)
    return sock


def info(where: Where, section: str) -> dict[str, str]:
    """Return a section of what the server tells of itself."""
    sock, reader = connect(where), hiredis.Reader()
    try:
        sock.sendall(pack("INFO", section))
        while (reply := reader.gets()) is False:
            reader.feed(sock.recv(1 << 16))
    finally:
        sock.close()
    if isinstance(reply, hiredis.ReplyError):
        raise reply
    return dict(line.split(":", 1) for line in bytes(reply).decode().splitlines() if ":" in line)


def replies(sock: socket.socket, reader: hiredis.Reader, count: int) -> Iterator[Any]:
    """Give this many replies as they come; error replies are values."""
    while count:
        reply = reader.gets()
        if reply is False:
            data = sock.recv(1 << 18)
            if not data:
                raise ConnectionError("the server closed the connection")
            reader.feed(data)
            continue
        yield reply
        count -= 1


def read_replies(sock: socket.socket, reader: hiredis.Reader, count: int) -> None:
    """Read this many replies; an error reply is raised."""
    for reply in replies(sock, reader, count):
        if isinstance(reply, hiredis.ReplyError):
            raise reply


def hset_distinct(
    where: Where, keys: int, prefix: str = f"{PREFIX}cart", pipeline: int = 200, more_bytes: int = 0
) -> float:
    """Set this many distinct hashes as fast as they are accepted; return the seconds.

    They have two fields, and a third with ``more_bytes`` where it is wanted.
    """
    more = ("more", "x" * more_bytes) if more_bytes else ()
    sock, reader = connect(where), hiredis.Reader()
    started = time.perf_counter()
    for first in range(0, keys, pipeline):
        count = min(pipeline, keys - first)
        commands = [
            pack("HSET", f"{prefix}:{number:07d}", "item", f"tea-{number}", "count", number % 9, *more)
            for number in range(first, first + count)
        ]
        sock.sendall(b"".join(commands))
        read_replies(sock, reader, count)
    sock.close()
    return time.perf_counter() - started
