"""An invoker's reads of a real cluster, on a loop of the test's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from engine.clock import monotonic_ms
from engine.config import RedisSettings
from engine.delivery.reading import fetch
from engine.delivery.reading.fetch import Fetched, Fetcher, Read, ReadLoop, Wish
from engine.delivery.reading.job import Key
from engine.delivery.reading.node_reader import NodeReader
from engine.delivery.sockets import Sockets
from engine.ring.wake import Wake
from engine.routing.nodes import Node, Topology
from tests.cluster.nodes import WAIT_S, Known
from tests.cluster.whole import Cluster

TURN_MS = 20
PATIENCE_MS = 2_000
"""A node that is well answers within this time, however busy the machine is."""
RETRY_MS = 50


def topology_of(cluster: Cluster, **reads_at: str) -> Topology:
    """Return the cluster as it is now, with numbers in the order of ids; ``reads_at`` has replicas by node id."""
    return topology_from(cluster.known(), cluster, **reads_at)


def topology_from(known: dict[str, Known], cluster: Cluster, **reads_at: str) -> Topology:
    """Return the cluster as one of its nodes knew it."""
    primaries = sorted((one for one in known.values() if one.is_primary), key=lambda one: one.id)
    nodes = tuple(
        Node(number, one.id, cluster.node(one.id).address, one.slots, one.epoch, reads_at.get(one.id, ""))
        for number, one in enumerate(primaries)
    )
    return Topology(nodes, is_cluster=True)


class ReadRig:
    """A fetcher and its loop; a context manager."""

    def __init__(
        self,
        cluster: Cluster,
        topology: Topology | None = None,
        floors: dict[str, int] | None = None,
        given: Callable[[int, int], None] = lambda _node, _version: None,
        **settings: Any,
    ) -> None:
        self.cluster = cluster
        self.sockets = Sockets()
        self.wake = Wake()
        self.sockets.watch(self.wake.fileno(), 1, self.wake.clear)
        self.failures = 0
        self.changed: list[str] = []
        self.freed: list[NodeReader] = []
        self.redis = RedisSettings(url=cluster.url, **settings)
        loop = ReadLoop(
            self.sockets,
            self.wake.signal,
            lambda _: RETRY_MS,
            self._fail,
            self.changed.append,
            self.freed.append,
            given,
        )
        known = topology or topology_of(cluster)
        self.fetcher = Fetcher(self.redis, 0, "reads", topology=known, floors=floors, loop=loop)

    def _fail(self) -> None:
        self.failures += 1

    def __enter__(self) -> ReadRig:
        self._patience_ms, fetch.PATIENCE_MS = fetch.PATIENCE_MS, PATIENCE_MS
        return self

    def __exit__(self, *_: object) -> None:
        fetch.PATIENCE_MS = self._patience_ms
        self.fetcher.close()
        self.wake.close()

    def reader(self, address: str) -> NodeReader:
        """Return the reader of the node at this address."""
        return self.fetcher.readers.named(address)

    def turn(self, moments: int = 1) -> None:
        """Let the loop turn."""
        for _ in range(moments):
            self.sockets.wait(TURN_MS)
            self.fetcher.expire(monotonic_ms())

    def until(self, condition: Any, what: str) -> None:
        """Let the loop turn until something is the case."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, what
            self.turn()

    def connected(self) -> ReadRig:
        """Return once all nodes may be asked."""
        self.until(lambda: all(one.is_ready() for one in self.fetcher.readers.all()), "all nodes are connected to")
        self.freed.clear()
        return self

    def read(self, keys: Sequence[Key], wish: Wish | None = None) -> Read:
        """Read once."""
        return self.fetcher.read(keys, wish or Wish())

    def read_all(self, keys: Sequence[Key], wish: Wish | None = None) -> list[Fetched]:
        """Read, and what has to wait again, until every key has a value."""
        values: dict[int, Fetched] = {}

        def is_whole() -> bool:
            left = [index for index in range(len(keys)) if index not in values]
            read = self.fetcher.read([keys[index] for index in left], wish or Wish())
            values.update((i, value) for i, value in zip(left, read.values, strict=True) if value is not None)
            return len(values) == len(keys)

        self.until(is_whole, "every key has a value")
        return [values[index] for index in range(len(keys))]
