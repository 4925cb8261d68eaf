"""The Redis side of an audit: a scan, reads, questions whether keys exist, and marks for the engine that listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from msgspec.structs import replace

from engine.audit.deletions import ServerFacts, facts_of
from engine.audit.scanning import AGAIN_S, ClusterScan
from engine.capture.own_keys import is_own
from engine.clock import monotonic_ms
from engine.config import Settings
from engine.delivery.reading.fetch import Fetched, Fetcher, Key
from engine.errors import RedisError, RedisUnreachable
from engine.marks.marker import Marker
from engine.marks.standing import Standing, nodes_known
from engine.redis.cluster.nodes import TROUBLE_MS_MAX, Nodes, Slices
from engine.redis.connection import pack
from engine.redis.eviction import QUESTIONS, may_evict
from engine.routing.assignment import is_by_bytes
from engine.routing.databases import inside
from engine.routing.nodes import Node
from engine.routing.slices import Slice

SCAN_COUNT = 500
BODY_CHARS_MAX = 16 * 1024 * 1024
"""Of values that are read at once; one more pipeline may be added."""

_MODULE_TYPES = {"json": "ReJSON-RL"}


class Server:
    """The databases of a server that are captured, or a cluster. Not thread-safe; raises `RedisError`."""

    def __init__(self, settings: Settings, database: int, name: str) -> None:
        known = nodes_known(settings.supervision.status_file)
        self._nodes = Nodes(settings.redis, name, database=database, known=known)
        self._prefix = self._nodes.databases.prefix
        self._slices = Slices(self._nodes, by_bytes=is_by_bytes(settings))
        self._redis, self._name = settings.redis, name
        self._skips = any(route.skip_unchanged for route in settings.routes)
        self._fetcher: Fetcher | None = None

    def close(self) -> None:
        """Close all connections."""
        self._drop_fetcher()
        self._nodes.close()

    def count(self) -> int:
        """Return how many keys there are."""
        return sum(int(self._nodes.call(node, "count its keys", "DBSIZE")) for node in self._nodes.parts)

    def may_evict(self) -> bool:
        """Tell whether any node of the server evicts keys, or did; for a replica, its primary's answer counts."""
        # If INFO is refused, nothing is known.
        return any(may_evict(self._from_primary(node)) for node in self._nodes.all)

    def _from_primary(self, node: Node) -> list[Any]:
        if not node.reads_at:
            return self._nodes.pipeline(node, QUESTIONS)
        try:
            return self._nodes.pipeline(replace(node, reads_at=""), QUESTIONS)
        except RedisError:
            return []

    def datasets(self) -> dict[str, ServerFacts]:
        """Return which dataset each node holds, by the node's id, as far as the nodes report it."""
        questions = [pack("INFO", section) for section in ("server", "persistence", "replication")]
        found = {}
        for node in self._nodes.all:
            parts = self._nodes.pipeline(node, questions)
            found[node.id] = facts_of(b"\n".join(part for part in parts if isinstance(part, bytes)))
        return found

    def place_of(self, key: bytes) -> str:
        """Return the id of the node that has this key, followed by a slash and its database if there are several."""
        owner = self._nodes.owner(key)
        return owner.id if owner.database is None else f"{owner.id}/{owner.database}"

    @property
    def database(self) -> int | None:
        """Return the database of all keys, None if each key names its own."""
        return self._nodes.databases.only

    def mapping_prefix(self, settings: Settings) -> str:
        """Return how the keys of the original's mapping hashes begin here; "" if there are none."""
        prefix = settings.original.mapping_prefix
        return self._nodes.databases.at_home(prefix.encode()).decode() if prefix else ""

    def names_of(self, key: bytes) -> tuple[bytes, bytes]:
        """Return a key's name here, and the name that it would have with one database instead of several, or the
        reverse: refused deletions may date from then.
        """
        database, name = self._nodes.databases.split(key)
        return key, name if self.database is None else inside(database, key)

    def slice_test(self, part: Slice) -> Callable[[bytes], bool]:
        """Return the test whether a key is of this slice."""
        return lambda key: self._slices.owns(part, key)

    def scan(self, type_name: str = "") -> Iterator[list[bytes]]:
        """Yield every key that exists throughout, at least once, in small lists; of one type if it is given."""
        if not self._nodes.is_cluster:
            return chain.from_iterable(self._scan_node(node, type_name) for node in self._nodes.parts)
        return ClusterScan(self._nodes, lambda node: self._scan_node(node, type_name)).all_keys()

    def _scan_node(self, node: Node, type_name: str) -> Iterator[list[bytes]]:
        of_type = ("TYPE", _MODULE_TYPES.get(type_name, type_name)) if type_name else ()
        cursor = b"0"
        while True:
            cursor, keys = self._nodes.call(node, "scan its keys", "SCAN", cursor, "COUNT", SCAN_COUNT, *of_type)
            found = [key for key in keys if not is_own(key)]
            yield found if node.database is None else [inside(node.database, key) for key in found]
            if cursor == b"0":
                return

    def read(self, keys: Sequence[bytes], event: str) -> Iterator[list[Fetched]]:
        """Yield the values of the keys in order, in bounded lists; ``event`` hints at their type."""
        pending = [(key, event) for key in keys]
        while pending:
            values = self._fetched(pending)
            yield values
            pending = pending[len(values) :]

    def _fetched(self, pending: Sequence[Key]) -> list[Fetched]:
        """Return the values of the first keys; in a cluster, wait for nodes that take another's place."""
        give_up_ms = monotonic_ms() + TROUBLE_MS_MAX
        while True:
            try:
                if self._fetcher is None:
                    self._fetcher = Fetcher(
                        self._redis, self._nodes.database, f"{self._name}-reads", topology=self._nodes.refresh()
                    )
                return self._fetcher.fetch(pending, BODY_CHARS_MAX)
            except RedisUnreachable:
                if not self._nodes.is_cluster or monotonic_ms() >= give_up_ms:
                    raise
            # What it knew of the nodes is no longer true.
            self._drop_fetcher()
            time.sleep(AGAIN_S)

    def _drop_fetcher(self) -> None:
        if self._fetcher is not None:
            self._fetcher.close()
            self._fetcher = None

    def absent(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return those of the keys that do not exist."""
        replies = self._nodes.ask(
            "report whether keys exist", [(key, self._nodes.about("EXISTS", key)) for key in keys]
        )
        return [key for key, reply in zip(keys, replies, strict=True) if not reply]

    def marker(self, standing: Callable[[], Standing | None]) -> Marker:
        """Return what marks keys in the engine that runs here, and ensures that no mark is lost."""
        return Marker(self._nodes, standing, self._slices, repairs_deliver=not self._skips)

    def mark(self, keys: Sequence[bytes], event: str) -> int:
        """Mark these keys in the engine that listens; return how many marks no engine received.

        An engine that loses a mark has a gap; whatever that gap held is its own task.
        """
        unheard = 0
        for node, indexes in self._nodes.by_owner(keys):
            replies = self._nodes.pipeline(
                node, [pack("PUBLISH", self._prefix + keys[index], event) for index in indexes]
            )
            for reply in replies:
                self._nodes.check(node, "publish repairs", reply)
            unheard += replies.count(0)
        return unheard
