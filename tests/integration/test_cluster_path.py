"""The whole path on a real cluster: nodes, slots and feeds change, and every key arrives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.routing.nodes import slots_in
from tests.cluster import Cluster, Migration, Node, cluster
from tests.servers import NAMES
from tests.support import ROUTE, PathUnderTest, wait_for, whole_path

KEYS = 3_000
WAIT_S = 120.0
TOPOLOGY = """\
[redis]
url = "{url}"
{redis}
[capture]
shards = {shards}
topology_interval_ms = {interval_ms}
{more}
[delivery]
invokers = 2
retry_backoff_ms_max = 500
dead_letter_file = "{folder}/dead_letters.jsonl"
backlog_folder = "{folder}/backlog"
[supervision]
status_file = "{folder}/status.json"
checkpoint_file = "{folder}/checkpoint"
"""


@contextmanager
def engine_on(
    folder: Path,
    made: Cluster,
    *,
    shards: int | str = 2,
    interval_ms: int = 60_000,
    more: str = "",
    redis: str = "",
    asked: Node | None = None,
) -> Iterator[PathUnderTest]:
    """Yield an engine that runs on this cluster, and delivers all keys to a recording function."""
    with whole_path(folder) as path:
        scheme = made.url.partition(":")[0]
        shown = f'"{shards}"' if isinstance(shards, str) else shards
        url = f"{scheme}://{(asked or made.alive()[0]).address}"
        head = TOPOLOGY.format(url=url, shards=shown, interval_ms=interval_ms, folder=folder, more=more, redis=redis)
        path.config.write_text(head + ROUTE)
        path.start()
        yield path
        assert path.stop() == 0, path.log()


def values_of(made: Cluster) -> dict[bytes, Any]:
    """Return what the cluster holds."""
    client = made.client()
    keys = list(client.scan_iter("cart:*", count=1_000))
    return {key: {name.decode(): value.decode() for name, value in client.hgetall(key).items()} for key in keys}


def wait_until_equal(path: PathUnderTest, made: Cluster) -> None:
    """Return once the function was given the last value of each key, which nobody writes any more."""
    wanted = values_of(made)

    def differing() -> list[bytes]:
        held = path.last()
        return [key for key, value in wanted.items() if held.get(key) != value]

    deadline = time.monotonic() + WAIT_S
    while left := differing():
        assert time.monotonic() < deadline, f"{len(left)} keys differ, such as {left[:3]}\n{path.log()}"
        time.sleep(0.2)


class Writer:
    """Writes carts through redis-py's client of the whole cluster, until it is ended."""

    def __init__(self, made: Cluster, keys: int = 500) -> None:
        self._client = made.client()
        self._keys = keys
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self.error: Exception | None = None
        self.writes = 0

    def _write(self) -> None:
        while not self._is_ending.wait(0.001):
            try:
                self._client.hset(f"cart:{self.writes % self._keys}", "n", str(self.writes))
                self.writes += 1
            except Exception as error:
                # A write that was refused is no change.
                self.error = error

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Write no more."""
        self._is_ending.set()
        self._thread.join()

    def wait_for_more(self, writes: int = 300) -> None:
        """Return when so many more writes were made."""
        wanted = self.writes + writes
        wait_for(lambda: self.writes >= wanted, f"{writes} more writes ({self.error!r})")


@pytest.mark.parametrize("server", NAMES)
def test_every_key_of_a_cluster_arrives(tmp_path: Path, server: str) -> None:
    """Keys that a cluster's own client writes to three primaries are all delivered, with two shards and with five."""
    with cluster(server, primaries=3) as made:
        client = made.client()
        for shards in (2, 5):
            folder = tmp_path / str(shards)
            folder.mkdir()
            with engine_on(folder, made, shards=shards) as path:
                for number in range(KEYS):
                    client.hset(f"cart:{number}", "n", f"{number}, {shards} shards")
                wait_until_equal(path, made)
                assert len(path.last()) == KEYS


@pytest.mark.parametrize("how", ["migrate", "migrateslots"])
def test_slots_that_move_while_they_are_written(tmp_path: Path, how: Migration) -> None:
    """While a writer writes, slots move to another node and back; each key's last value arrives."""
    with cluster(primaries=3) as made, engine_on(tmp_path, made, shards=2) as path:
        first, second, _ = made.primaries()
        slots = list(slots_in(made.slots_of(first)))[:300]
        with Writer(made) as writer:
            writer.wait_for_more()
            for source, target in ((first, second), (second, first), (first, second)):
                made.move_slots(slots, source, target, how)
                writer.wait_for_more()
            made.wait_until_ok()
            writer.wait_for_more()
        wait_until_equal(path, made)
        wait_for(lambda: "topology_in_force" in path.log(), "the new topology")


def test_a_node_that_joins_and_one_that_leaves(tmp_path: Path) -> None:
    """A new primary takes over all slots of an old one, which is then removed: nothing is lost, nobody had to help."""
    with cluster(primaries=3) as made, engine_on(tmp_path, made, shards=2) as path, Writer(made) as writer:
        writer.wait_for_more()
        leaves = made.primaries()[0]
        joins = made.add_node()
        wait_for(lambda: joins.address in path.log(), "the new node is seen")
        made.move_slots(list(slots_in(made.slots_of(leaves))), leaves, joins, "migrateslots")
        made.wait_until_ok()
        writer.wait_for_more()
        made.remove_node(leaves)
        writer.wait_for_more()
        writer.end()
        wait_until_equal(path, made)


@pytest.mark.parametrize("how", ["kill", "CLUSTER FAILOVER"])
def test_a_failover(tmp_path: Path, how: Any) -> None:
    """A replica takes its primary's place while keys are written; its feed follows, and nothing is lost."""
    with cluster(primaries=3, replicas=1) as made, engine_on(tmp_path, made, shards=3) as path:
        with Writer(made) as writer:
            writer.wait_for_more()
            made.failover(made.primaries()[0], how)
            made.wait_until_ok()
            writer.wait_for_more()
        wait_until_equal(path, made)


@pytest.mark.parametrize("known_by", ["checkpoint", "redis.node_addresses"])
def test_a_start_without_the_named_node(tmp_path: Path, known_by: str) -> None:
    """An engine starts again though the node in redis.url is dead: others are known, and one of them answers."""
    with cluster(primaries=3, replicas=1, config={"cluster-require-full-coverage": "no"}) as made:
        named, other, _ = made.primaries()
        redis = f'node_addresses = ["unused:1={other.address}"]' if known_by == "redis.node_addresses" else ""
        client = made.client()
        with engine_on(tmp_path, made, asked=named, redis=redis) as path:
            for number in range(50):
                client.hset(f"cart:{number}", "n", "before")
            wait_until_equal(path, made)
            assert path.stop() == 0
            made.failover(named, "kill")
            made.wait_until_ok()
            if known_by == "checkpoint":
                client.hset("cart:3", "n", "meanwhile")
            else:
                for file in tmp_path.glob("checkpoint*"):
                    file.unlink()
            path.start()
            assert "is asked instead" in path.log()
            client.hset("cart:last", "n", "after")
            wait_until_equal(path, made)
