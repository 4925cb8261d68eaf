"""The whole path on a real cluster: nodes, slots and feeds change, and every key arrives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster, cluster
from tests.servers import NAMES
from tests.support import ROUTE, PathUnderTest, whole_path

KEYS = 3_000
WAIT_S = 120.0
TOPOLOGY = """\
[redis]
url = "{url}"
[capture]
shards = {shards}
topology_interval_ms = {interval_ms}
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
    folder: Path, made: Cluster, *, shards: int | str = 2, interval_ms: int = 60_000
) -> Iterator[PathUnderTest]:
    """Yield an engine that runs on this cluster, and delivers all keys to a recording function."""
    with whole_path(folder) as path:
        shown = f'"{shards}"' if isinstance(shards, str) else shards
        head = TOPOLOGY.format(url=made.url, shards=shown, interval_ms=interval_ms, folder=folder)
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
