"""What a command costs the server's one thread: with nobody listening, with notifications, with patterns."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import ExitStack

import msgspec
import psutil

from benchmarks.stand.load import connect, info
from engine.redis.connection import pack
from engine.routing.assignment import assign
from engine.routing.nodes import Topology
from engine.sandbox.valkey import ValkeyServer

KEYS = 20_000
PIPELINE = 200
PATTERNS = 4
_fork = multiprocessing.get_context("fork")


class ServerCosts(msgspec.Struct, frozen=True):
    """CPU µs of the server a command, its own and the kernel's."""

    hset_us: float
    notify_us: float
    """What notifications add to it, sent to one who listens."""
    pattern_us: float
    """What each pattern adds."""
    read_us: float
    """An HGETALL of a hash of two fields."""


def measure_server(seconds: float = 1.5) -> ServerCosts:
    """Measure all four, one after the other."""
    off = _cost("", 0, seconds)
    heard = _cost("Kh", 1, seconds)
    split = _cost("Kh", PATTERNS, seconds)
    read = _cost("", 0, seconds, reads=True)
    # One pattern more is one test more of every channel; to send the event to somebody is in the first.
    pattern = max(0.0, (split - heard) / (PATTERNS - 1))
    return ServerCosts(off, max(0.0, heard - off - pattern), pattern, read)


def _cost(flags: str, shards: int, seconds: float, *, reads: bool = False) -> float:
    with ValkeyServer(config={"notify-keyspace-events": flags}) as server, ExitStack() as stack:
        sample = {"": [b"%d" % digit for digit in range(10)]}
        for (feed,) in assign(Topology(), shards, samples=sample) if shards else ():
            _started(stack, _listen, server.port, feed.patterns)
        _started(stack, _load, server.port, False)
        time.sleep(0.7)
        if reads:
            stack.close()
            _started(stack, _load, server.port, True)
            time.sleep(0.3)
        process = psutil.Process(server.pid)
        cpu, count = process.cpu_times(), int(info(server.port, "stats")["total_commands_processed"])
        time.sleep(seconds)
        cpu_now, count_now = process.cpu_times(), int(info(server.port, "stats")["total_commands_processed"])
        used_s = cpu_now.user + cpu_now.system - cpu.user - cpu.system
        return used_s / (count_now - count) * 1e6


def _started(stack: ExitStack, target: object, *arguments: object) -> None:
    process = _fork.Process(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
    process.start()
    stack.callback(process.join)
    stack.callback(process.kill)


def _listen(port: int, patterns: tuple[bytes, ...]) -> None:
    sock = connect(port)
    sock.sendall(pack("PSUBSCRIBE", *patterns))
    while sock.recv(1 << 20):
        pass


def _load(port: int, reads: bool) -> None:
    """Send the same pipelines over and over, until killed; answers are read unparsed, by their last byte."""
    sock = connect(port)

    def make(key: str) -> bytes:
        return pack("HGETALL", key) if reads else pack("HSET", key, "item", "tea", "count", "3")

    batches = [
        b"".join(make(f"cart:{number}") for number in range(first, first + PIPELINE)) + pack("ECHO", "end")
        for first in range(0, KEYS, PIPELINE)
    ]
    while True:
        for batch in batches:
            sock.sendall(batch)
            data = b""
            while not data.endswith(b"$3\r\nend\r\n"):
                data = data[-16:] + sock.recv(1 << 18)


if __name__ == "__main__":
    print(measure_server())
