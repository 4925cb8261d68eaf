"""Two writers, each a process: a steady one, and one whose changes are timed."""

from __future__ import annotations

import multiprocessing
import random
import socket
import time
from array import array
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import hiredis

from benchmarks.stand.load import connect, read_replies
from engine.redis.connection import pack

TICK_S = 0.01
READ_PIPELINE = 1_000
LOAD = b"*6\r\n$4\r\nHSET\r\n$12\r\nload:%07d\r\n$1\r\nn\r\n$10\r\n%010d\r\n$4\r\nitem\r\n$3\r\ntea\r\n"
KEYS_MAX = 10_000_000

_fork = multiprocessing.get_context("fork")


class LoadWriter:
    """Sets random keys of ``keys``: field ``n`` of a value is the write's number, from 1."""

    def __init__(self, port: int, keys: int, seed: int) -> None:
        assert 0 < keys <= KEYS_MAX
        self._rate = _fork.Value("d", 0.0, lock=False)
        self._written = _fork.Value("Q", 0, lock=False)
        self._is_done = _fork.Value("b", 0, lock=False)
        arguments = (port, keys, seed, self._rate, self._written, self._is_done)
        self._process = _fork.Process(target=_write, args=arguments, daemon=True)
        self._process.start()

    @property
    def written(self) -> int:
        """Return how many writes were acknowledged."""
        return int(self._written.value)

    def set_rate(self, rate: float) -> None:
        """Write so many changes a second from now on."""
        if not self._process.is_alive():
            raise RuntimeError(f"the writer ended with {self._process.exitcode}")
        self._rate.value = rate

    def stop(self) -> None:
        """Return when the last write was acknowledged."""
        self._is_done.value = 1
        self._process.join()
        if self._process.exitcode:
            raise RuntimeError(f"the writer ended with {self._process.exitcode}")


def _write(port: int, keys: int, seed: int, rate: Any, written: Any, is_done: Any) -> None:
    sock, reader, choose = connect(port), hiredis.Reader(), random.Random(seed)
    number, due_s = 0, time.monotonic()
    while not is_done.value:
        count = round(rate.value * TICK_S)
        if count:
            picks = memoryview(choose.randbytes(4 * count)).cast("I")
            commands = [LOAD % (pick % keys, value) for value, pick in enumerate(picks, number + 1)]
            sock.sendall(b"".join(commands))
            read_replies(sock, reader, count)
            number += count
            written.value = number
        moment_s = time.monotonic()
        due_s = max(due_s + TICK_S, moment_s - 1.0)
        if due_s > moment_s:
            time.sleep(due_s - moment_s)


class LiveWriter:
    """Changes the healthy route's keys at a steady rate, whatever the answers take, and notes when each was made."""

    def __init__(self, port: int, rate: float, keys: int) -> None:
        self._stopping = _fork.Event()
        self._ours, theirs = _fork.Pipe(duplex=False)
        self._process = _fork.Process(target=_tick, args=(port, rate, keys, self._stopping, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def stop(self) -> tuple[array[int], array[int]]:
        """Return when each change was due, and when it was answered (monotonic ns); change n is at n − 1."""
        self._stopping.set()
        due, answered = array("Q"), array("Q")
        due.frombytes(self._ours.recv_bytes())
        answered.frombytes(self._ours.recv_bytes())
        self._process.join()
        return due, answered


def _tick(port: int, rate: float, keys: int, stopping: Any, out: Connection) -> None:
    sock, reader = connect(port), hiredis.Reader()
    due, answered = array("Q"), array("Q")
    started_ns, number = time.monotonic_ns(), 0
    while not stopping.is_set():
        due_ns = started_ns + int(number * 1e9 / rate)
        wait_ns = due_ns - time.monotonic_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / 1e9)
        number += 1
        sock.sendall(pack("HSET", f"live:{number % keys}", "n", number))
        read_replies(sock, reader, 1)
        due.append(due_ns)
        answered.append(time.monotonic_ns())
    out.send_bytes(due.tobytes())
    out.send_bytes(answered.tobytes())


def read_load(port: int, keys: int) -> Iterator[int]:
    """Yield the number of each key's value in Redis, in the order of keys; 0 if there is none."""
    sock, reader = connect(port), hiredis.Reader()
    sock.settimeout(60.0)
    for first in range(0, keys, READ_PIPELINE):
        count = min(READ_PIPELINE, keys - first)
        sock.sendall(b"".join([pack("HGET", f"load:{key:07d}", "n") for key in range(first, first + count)]))
        for _ in range(count):
            reply = _reply(sock, reader)
            yield int(reply) if reply is not None else 0
    sock.close()


def count_keys(sock: socket.socket, reader: hiredis.Reader) -> int:
    """Return how many keys the server has."""
    sock.sendall(pack("DBSIZE"))
    return int(_reply(sock, reader))


def _reply(sock: socket.socket, reader: hiredis.Reader) -> Any:
    while (reply := reader.gets()) is False:
        data = sock.recv(1 << 16)
        if not data:
            raise ConnectionError("the server closed the connection")
        reader.feed(data)
    if isinstance(reply, hiredis.ReplyError):
        raise reply
    return reply
