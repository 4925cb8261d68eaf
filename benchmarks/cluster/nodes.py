"""A cluster of primaries on this machine, and the load that fills it: hashes set as fast as each node takes them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import hiredis
import psutil

from benchmarks.stand.errors import SenderFailed
from benchmarks.stand.harness import wait_until
from benchmarks.stand.load import connect, read_replies
from engine.config import RedisSettings
from engine.redis.connection import RespConnection, pack
from engine.routing.nodes import SLOTS, slot_of
from engine.sandbox import ports
from engine.sandbox.valkey import ValkeyServer

KEYS, PIPELINE = 30_000, 200
_fork = multiprocessing.get_context("fork")


@dataclass
class Primary:
    """A node and its slots, both ends included."""

    server: ValkeyServer
    slots: tuple[int, int]

    def cpu_s(self) -> float:
        """Return the CPU seconds that it has used."""
        times = psutil.Process(self.server.pid).cpu_times()
        return times.user + times.system

    @cached_property
    def batches(self) -> list[bytes]:
        """Return pipelines that set each of its keys once."""
        first, last = self.slots
        names = (f"bench:cart:{number:07d}" for number in range(SLOTS * KEYS))
        commands: list[bytes] = []
        while len(commands) < KEYS:
            name = next(names)
            if first <= slot_of(name.encode()) <= last:
                commands.append(pack("HSET", name, "item", "tea", "count", "3"))
        return [b"".join(commands[at : at + PIPELINE]) for at in range(0, KEYS, PIPELINE)]


@contextmanager
def cluster_of(count: int) -> Iterator[list[Primary]]:
    """Yield so many primaries that share the slots evenly, and know each other."""
    config = {"cluster-enabled": "yes", "cluster-require-full-coverage": "no"}
    with ExitStack() as stack:
        found: list[Primary] = []
        buses: list[int] = []
        for number in range(count):
            bus = ports.free_port("a node's bus")
            server = stack.enter_context(ValkeyServer(config={**config, "cluster-port": str(bus)}))
            slots = (SLOTS * number // count, SLOTS * (number + 1) // count - 1)
            _call(server, "CLUSTER", "ADDSLOTSRANGE", *slots)
            for other, its_bus in zip(found, buses, strict=True):
                _call(server, "CLUSTER", "MEET", ports.HOST, other.server.port, its_bus)
            buses.append(bus)
            found.append(Primary(server, slots))
        for one in found:
            wait_until(lambda one=one: _is_whole(one, count), "the cluster is well")  # type: ignore[misc]
        yield found


def _is_whole(primary: Primary, count: int) -> bool:
    told = _call(primary.server, "CLUSTER", "INFO").decode().split()
    return {"cluster_state:ok", f"cluster_known_nodes:{count}", f"cluster_size:{count}"} <= set(told)


def _call(server: ValkeyServer, *words: str | int) -> Any:
    connection = RespConnection.open(RedisSettings(url=server.url), name="bench")
    try:
        return connection.call(*words)
    finally:
        connection.close()


def load(primaries: Sequence[Primary], changes: int) -> int:
    """Have each node take its share of so many changes at once, as fast as it can; return how many they were."""
    rounds = max(1, changes // (PIPELINE * len(primaries)))
    senders = [_fork.Process(target=_send, args=(one, rounds), daemon=True) for one in primaries]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    if any(sender.exitcode for sender in senders):
        raise SenderFailed("a sender ended: the server refused a command, or closed the connection")
    return rounds * PIPELINE * len(primaries)


def _send(primary: Primary, rounds: int) -> None:
    batches = primary.batches
    sock, reader = connect(primary.server.port), hiredis.Reader()
    for number in range(rounds):
        sock.sendall(batches[number % len(batches)])
        read_replies(sock, reader, PIPELINE)
