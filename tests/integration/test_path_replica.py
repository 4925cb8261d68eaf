"""The whole path on replicas: the primary pays nothing, and nothing is lost whichever of them comes and goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Node, Watched, sentinels, wait_until
from tests.cluster.endpoint import endpoint
from tests.integration.test_path_sentinel import configure, is_whole, write
from tests.support import PathUnderTest, wait_for, whole_path


@pytest.fixture
def replicated() -> Iterator[Watched]:
    """A primary with two replicas that nobody watches."""
    with sentinels(count=0, replicas=2) as made:
        primary = made.nodes[0]
        wait_until(lambda: primary.client.info("replication")["connected_slaves"] == 2, "both follow")
        yield made


def clients(server: Node) -> set[str]:
    """Return the engine's connections that a server has, by their names."""
    return {one["name"] for one in server.client.client_list() if one["name"].startswith("engine-")}


def is_read(server: Node) -> bool:
    """Tell whether changes are captured and values are read there."""
    names = {name.rpartition("-")[0] for name in clients(server)}
    return {"engine-subscriber", "engine-sentry", "engine-invoker"} <= names


def write_some(path: PathUnderTest, primary: Node, prefix: str) -> None:
    for number in range(200):
        write(primary.client, prefix, number % 50)
    wait_for(lambda: is_whole(path, primary.client, prefix), f"{prefix} at the destination")


def start(path: PathUnderTest, url: str, more: str = 'read_from = "replica"') -> None:
    """Start the engine, which asks for the nodes twice a second."""
    configure(path, url, more)
    path.config.write_text(path.config.read_text().replace("[capture]", "[capture]\ntopology_interval_ms = 500"))
    path.start()


def test_replicas_that_come_and_go(tmp_path: Path, replicated: Watched) -> None:
    """A replica is captured and read; where it is lost another is, then the primary, until a replica is back."""
    primary, *replicas = replicated.nodes
    with whole_path(tmp_path) as path:
        start(path, f"redis://{primary.address}/0")
        write_some(path, primary, "first")
        (read,) = [server for server in replicas if is_read(server)]
        (other,) = [server for server in replicas if server is not read]
        assert clients(primary) == clients(other) == set()
        read.kill()
        write_some(path, primary, "second")
        wait_for(lambda: is_read(other), "the other replica is read")
        assert clients(primary) == set()
        other.kill()
        write_some(path, primary, "third")
        wait_for(lambda: is_read(primary), "the primary is read")
        wait_for(lambda: "no replica is healthy" in path.log(), "that is told")
        read.server.start()
        wait_for(lambda: is_read(read), "a replica is read again")
        wait_for(lambda: clients(primary) == set(), "the primary is left alone")
        write_some(path, primary, "fourth")
        assert path.stop() == 0


def test_a_replica_that_lags(tmp_path: Path, replicated: Watched) -> None:
    """Whatever a replica is behind, the value that is read after an event is that of the event, or a newer one."""
    primary, *replicas = replicated.nodes
    with whole_path(tmp_path) as path:
        start(path, f"redis://{primary.address}/0")
        write_some(path, primary, "before")
        (read,) = [server for server in replicas if is_read(server)]
        for turn in range(3):
            read.stop()
            with primary.client.pipeline(transaction=False) as pipeline:
                for number in range(500):
                    pipeline.hset(f"lagging:{number}", "n", f"{turn}:{number}")
                pipeline.execute()
            read.cont()
            wait_for(lambda: path.last().get(b"lagging:499") == {"n": f"{turn}:499"}, "the last of them")  # noqa: B023
        wait_for(lambda: is_whole(path, primary.client, "lagging"), "everything at the destination")
        assert path.stop() == 0
        values: dict[str, list[str]] = {}
        for record in path.records():
            if record["id"].startswith("lagging:"):
                values.setdefault(record["id"], []).append(record["body"])
        assert all(told == sorted(told) for told in values.values()), "a value went back"


def test_a_named_replica_is_promoted(tmp_path: Path, replicated: Watched) -> None:
    """A replica that is named, and meant, is captured on, whether it becomes the primary or a replica."""
    primary, replica, _ = replicated.nodes
    with whole_path(tmp_path) as path:
        configure(path, f"redis://{replica.address}/0", 'read_from = "replica"')
        path.start()
        assert is_read(replica)
        write_some(path, primary, "first")
        replica.call("REPLICAOF", "NO", "ONE")
        primary.call("REPLICAOF", *replica.address.split(":"))
        write_some(path, replica, "second")
        wait_until(lambda: primary.client.info("replication")["master_link_status"] == "up", "it follows")
        replica.call("REPLICAOF", *primary.address.split(":"))
        primary.call("REPLICAOF", "NO", "ONE")
        write_some(path, primary, "third")
        assert path.stop() == 0


def test_the_primary_of_a_named_replica(tmp_path: Path, replicated: Watched) -> None:
    """Who names a replica by mistake has the primary captured; both may change their roles, and it is followed."""
    primary, replica, _ = replicated.nodes
    with whole_path(tmp_path) as path:
        start(path, f"redis://{replica.address}/0", "")
        assert f"{replica.address} is a replica: changes are captured and read at its primary" in path.log()
        write_some(path, primary, "first")
        assert is_read(primary)
        assert clients(replica) == set()
        replica.call("REPLICAOF", "NO", "ONE")
        primary.call("REPLICAOF", *replica.address.split(":"))
        write_some(path, replica, "second")
        wait_for(lambda: is_read(replica), "the new primary is read")
        wait_until(lambda: primary.client.info("replication")["master_link_status"] == "up", "it follows")
        replica.call("REPLICAOF", *primary.address.split(":"))
        primary.call("REPLICAOF", "NO", "ONE")
        write_some(path, primary, "third")
        assert path.stop() == 0


def test_a_named_primary_hands_over(tmp_path: Path, replicated: Watched) -> None:
    """A primary that hands over by FAILOVER is left for the one that it follows then: nobody renames anything."""
    before = replicated.nodes[0]
    with whole_path(tmp_path) as path:
        start(path, f"redis://{before.address}/0", "")
        write_some(path, before, "first")
        after = replicated.failover("FAILOVER")
        write_some(path, after, "second")
        wait_for(lambda: is_read(after) and not clients(before), "the new primary is read, and nobody else")
        write_some(path, after, "third")
        assert path.stop() == 0


@pytest.mark.parametrize("lag_s", [0, 4])
def test_an_endpoint_moves(tmp_path: Path, replicated: Watched, lag_s: int) -> None:
    """A primary that becomes a replica is left for whom its name leads to, also where the name follows late."""
    before, after, _ = replicated.nodes
    with endpoint(before.port) as named, whole_path(tmp_path) as path:
        start(path, f"redis://{named.address}/0", "")
        write_some(path, before, "first")
        after.call("REPLICAOF", "NO", "ONE")
        before.call("REPLICAOF", *after.address.split(":"))
        if not lag_s:
            named.lead_to(after.port)
        write_some(path, after, "second")
        time.sleep(lag_s)
        named.lead_to(after.port)
        wait_for(lambda: is_read(after) and not clients(before), "the new primary is read, and nobody else")
        write_some(path, after, "third")
        assert path.stop() == 0
