"""Without cluster mode, values are read where changes are heard: at the primary, or at the replica that is captured."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from engine.clock import monotonic_ms
from engine.config import RedisSettings
from engine.redis.connection import RespConnection, is_replica
from engine.routing.nodes import Node, Topology
from engine.sandbox.valkey import ValkeyServer
from tests.cluster import Node as Server
from tests.cluster import Watched, sentinels, wait_until
from tests.cluster.reading import ReadRig
from tests.servers import every_server

KEYS = [(b"key:%d" % number, "hset") for number in range(10)]


@pytest.fixture
def replicated() -> Iterator[Watched]:
    """A primary with a replica, both with all keys."""
    with sentinels(count=0, replicas=1) as made:
        primary, replica = made.nodes
        for key, _ in KEYS:
            primary.client.hset(key, "n", "1")
        wait_until(lambda: replica.client.dbsize() == len(KEYS), "the replica has them")
        yield made


def rig(server: Server, node: Node) -> ReadRig:
    where: Any = SimpleNamespace(url=f"redis://{server.address}/0")
    return ReadRig(where, Topology((node,)))


@pytest.mark.parametrize("rights", ["+role", "-role"])
def test_a_primary_that_resigns_is_not_believed(replicated: Watched, rights: str) -> None:
    """What a server says that is a replica by then is not taken for the newest, and it is not connected to again."""
    primary, replica = replicated.nodes
    primary.call("ACL", "SETUSER", "default", rights)
    with rig(primary, Node()).connected() as reads:
        assert all(value.body for value in reads.read_all(KEYS))
        replica.call("REPLICAOF", "NO", "ONE")
        primary.call("REPLICAOF", *replica.address.split(":"))
        replica.client.hset("key:3", "n", "2")
        read = reads.read(KEYS)
        assert read.values == [None] * len(KEYS)
        reads.until(lambda: reads.failures >= 2, "it is no primary when it is connected to either")
        assert reads.read(KEYS).values == [None] * len(KEYS)
        primary.call("REPLICAOF", "NO", "ONE")
        assert all(value.body for value in reads.read_all(KEYS))


def test_a_replica_that_is_captured_is_read(replicated: Watched) -> None:
    """Where the topology names a replica, it alone is read; one that is promoted meanwhile has the newest values."""
    primary, replica = replicated.nodes
    with rig(primary, Node(reads_at=replica.address)).connected() as reads:
        assert reads.fetcher.readers.all()[0].address.port == replica.port
        assert all(value.body for value in reads.read_all(KEYS))
        replica.call("REPLICAOF", "NO", "ONE")
        replica.client.hset("key:3", "n", "2")
        assert reads.read_all(KEYS)[3].body == '{"n":"2"}'


def test_a_right_that_is_taken_away(replicated: Watched) -> None:
    """A server that does not tell its role any more is asked in another way, on another connection."""
    primary, _ = replicated.nodes
    with rig(primary, Node()).connected() as reads:
        assert all(value.body for value in reads.read_all(KEYS))
        primary.call("ACL", "SETUSER", "default", "-role")
        assert reads.read(KEYS).values == [None] * len(KEYS)
        assert all(value.body for value in reads.read_all(KEYS))


def test_a_connection_is_renewed_before_it_ends(replicated: Watched) -> None:
    """Reads connect anew, between two pipelines, before AWS ends what IAM let in: that is no failure."""
    primary, _ = replicated.nodes
    with rig(primary, Node()).connected() as reads:
        (reader,) = reads.fetcher.readers.all()
        before = reader.connection
        assert before is not None
        before.renewal_ms = monotonic_ms()
        reads.until(lambda: reader.connection not in {None, before}, "another connection")
        assert all(value.body for value in reads.read_all(KEYS))
        assert reads.failures == 0


@every_server
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("encoding", [None, "utf-8"])
def test_roles_in_greetings(server_binary: Any, protocol: int, encoding: str | None) -> None:
    """Every server tells its role to whoever asks, in each protocol."""
    with ValkeyServer(binary=server_binary) as primary:
        config = {"replicaof": f"127.0.0.1 {primary.port}"}
        with ValkeyServer(binary=server_binary, config=config) as replica:
            for server, is_one in ((primary, False), (replica, True)):
                redis = RedisSettings(url=server.url)
                connection = RespConnection.open(redis, name="test", protocol=protocol, encoding=encoding)
                assert is_replica(connection.call("HELLO")) is is_one
                assert is_replica(connection.call("ROLE")) is is_one
                connection.close()
