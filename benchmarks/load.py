"""HSET load in a process of its own: as fast as it goes, or open-loop on a schedule."""

from __future__ import annotations

import multiprocessing
import socket
import time
from multiprocessing.connection import Connection

import hiredis

from engine.connection import pack


def connect(port: int) -> socket.socket:
    """Return a connection to the server on this machine."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def read_replies(sock: socket.socket, reader: hiredis.Reader, count: int) -> None:
    """Read this many replies; an error reply is raised."""
    while count:
        reply = reader.gets()
        if reply is False:
            data = sock.recv(1 << 16)
            if not data:
                raise ConnectionError("the server closed the connection")
            reader.feed(data)
            continue
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        count -= 1


def hset_distinct(port: int, keys: int, prefix: str = "cart", pipeline: int = 200, more_bytes: int = 0) -> float:
    """Set this many distinct hashes as fast as they are accepted; return the seconds.

    They have two fields, and a third with ``more_bytes`` where it is wanted.
    """
    more = ("more", "x" * more_bytes) if more_bytes else ()
    sock, reader = connect(port), hiredis.Reader()
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


def _scheduled(port: int, changes: int, rate: float, keys: int, prefix: str, out: Connection) -> None:
    sock, reader = connect(port), hiredis.Reader()
    answered: list[int] = []
    late_ns = 0
    started = time.time_ns()
    for number in range(changes):
        due = started + int(number * 1e9 / rate)
        wait = due - time.time_ns()
        if wait > 0:
            time.sleep(wait / 1e9)
        late_ns = max(late_ns, -wait)
        sock.sendall(pack("HSET", f"{prefix}:{number % keys}", "n", number, "due_ns", due))
        read_replies(sock, reader, 1)
        answered.append(time.time_ns())
    out.send((answered, late_ns))


def hset_scheduled(port: int, changes: int, rate: float, keys: int, prefix: str = "cart") -> tuple[list[int], int]:
    """Send changes on a schedule of their own, whatever the answers take, from another process.

    Return when each was answered (Unix time, ns), and how late the sender ever was (ns). Field ``n`` of a
    hash is the change's number.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_scheduled, args=(port, changes, rate, keys, prefix, theirs))
    process.start()
    result: tuple[list[int], int] = ours.recv()
    process.join()
    return result
