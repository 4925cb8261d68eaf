"""The nodes of real servers: asked of any of them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import redis
from msgspec.structs import replace

from engine.config import RedisSettings
from engine.errors import RedisRefused, RedisUnreachable
from engine.redis.connection import RespConnection
from engine.redis.node import settings_at
from engine.redis.topology import ask_topology
from engine.routing.nodes import Node, Topology, slot_of
from engine.sandbox.valkey import ValkeyServer
from tests.cluster import SECRET, Cluster, cluster, wait_until
from tests.servers import NAMES, every_server


def settings(made: Cluster, **options: object) -> RedisSettings:
    return RedisSettings(url=made.url, **options)  # type: ignore[arg-type]


def by_id(topology: Topology) -> dict[str, tuple[str, tuple[tuple[int, int], ...]]]:
    return {node.id: (node.address, node.slots) for node in topology.nodes}


@pytest.mark.parametrize("server", NAMES)
def test_a_cluster_is_asked(server: str) -> None:
    """Each node of each server tells ids, addresses, slots, epochs and replicas of all, and of those without slots."""
    with cluster(server, primaries=3, replicas=1) as made:
        made.add_node()
        replicas = {node.id: tuple(replica.address for replica in made.replicas_of(node)) for node in made.primaries()}
        for asked in made.nodes:
            found = ask_topology(settings_at(settings(made), asked.address))
            assert found.topology.is_cluster
            assert found.fault() is None
            assert by_id(found.topology) == {node.id: (node.address, made.slots_of(node)) for node in made.primaries()}
            assert {id: found.replicas.get(id, ()) for id in replicas} == replicas
            assert {node.id: node.epoch for node in found.topology.nodes} == {
                id: known.epoch for id, known in made.known().items() if known.is_primary
            }
            assert found.epoch == int(asked.info()["cluster_current_epoch"])


@pytest.mark.parametrize("server", NAMES)
def test_a_dead_node_is_there_until_its_slots_have_an_owner(server: str) -> None:
    """A primary that failed is told as the owner of its slots until a replica has taken them; then as none."""
    with cluster(server, primaries=3, replicas=1, config={"cluster-require-full-coverage": "no"}) as made:
        first, *_ = made.primaries()
        (replica,) = made.replicas_of(first)
        redis = settings_at(settings(made), made.primaries()[1].address)
        before = by_id(ask_topology(redis).topology)
        made.failover(first, "kill")
        wait_until(lambda: first.id not in by_id(ask_topology(redis).topology), "the dead one is gone")
        after = by_id(ask_topology(redis).topology)
        assert after[replica.id] == (replica.address, before[first.id][1])
        assert ask_topology(redis).fault() is None


def test_slots_without_an_owner_are_named() -> None:
    """Slots that nobody has are told, whoever is asked."""
    with cluster(primaries=2) as made:
        first, second = made.primaries()
        slot = slot_of(b"cart:1")
        for node in (first, second):
            node.call("CLUSTER", "DELSLOTS", slot)
        wait_until(lambda: ask_topology(settings(made)).fault() is not None, "the slot is nobody's")
        fault = ask_topology(settings(made)).fault()
        assert fault is not None
        assert f"no node has slots {slot}" in fault.message


def test_announced_addresses_are_mapped() -> None:
    """A node that announces an address of its own network is reached where the settings say."""
    with cluster(primaries=2) as made:
        first, second = made.primaries()
        second.call("CONFIG", "SET", "cluster-announce-ip", "10.255.255.1")
        announced = f"10.255.255.1:{second.port}"
        addresses = (f"{announced}={second.address}",)

        def address() -> str:
            return by_id(ask_topology(settings(made)).topology)[second.id][0]

        wait_until(lambda: address() == announced, "the address is announced")
        mapped = ask_topology(settings(made, node_addresses=addresses)).topology
        assert by_id(mapped)[second.id][0] == second.address
        assert by_id(mapped)[first.id][0] == first.address


@pytest.mark.parametrize("server", ["valkey-9.1", "redis-7.0"])
def test_host_names_are_heeded(server: str) -> None:
    """Where a cluster tells its clients names, nodes with slots and without are told by their names."""
    config = {"cluster-announce-hostname": "localhost", "cluster-preferred-endpoint-type": "hostname"}
    with cluster(server, primaries=2, config=config) as made:
        empty = made.add_node()

        def addresses() -> dict[str, str]:
            return {id: address for id, (address, _) in by_id(ask_topology(settings(made)).topology).items()}

        wanted = {node.id: f"localhost:{node.port}" for node in (*made.primaries(), empty)}
        wait_until(lambda: addresses() == wanted, "all names are known")


@pytest.mark.parametrize("server", ["valkey-9.1", "redis-7.0"])
def test_an_unknown_endpoint_is_the_one_that_was_asked(server: str) -> None:
    """Where a cluster leaves it to its clients how they reach it, nodes are where the first was."""
    with cluster(server, primaries=2, config={"cluster-preferred-endpoint-type": "unknown-endpoint"}) as made:
        redis = settings_at(settings(made), f"localhost:{made.nodes[0].port}")
        found = by_id(ask_topology(redis).topology)
        assert {address for address, _ in found.values()} == {f"localhost:{node.port}" for node in made.nodes}


@pytest.mark.parametrize("server", NAMES)
def test_who_may_not_ask_is_told(server: str) -> None:
    """A user without the right to ask for the nodes learns which right that is."""
    lines = [
        f"engine on >{SECRET} ~* &* +@all -cluster",
        f"asker on >{SECRET} +hello +client +cluster|info +cluster|nodes +cluster|slots",
    ]
    with cluster(server, primaries=1, users=lines) as made:
        url = f"redis://{made.nodes[0].address}"
        with pytest.raises(RedisRefused, match="list the nodes of its cluster") as caught:
            ask_topology(RedisSettings(url=url, username="engine", password=SECRET))
        assert "+cluster" in caught.value.hint
        found = ask_topology(RedisSettings(url=url, username="asker", password=SECRET))
        assert len(found.topology.nodes) == 1


def test_a_cluster_with_tls() -> None:
    """Nodes without a plain port are told with the port that speaks TLS."""
    with cluster("redis-7.0", primaries=2, tls=True) as made:
        redis = settings(
            made,
            tls_ca_file=made.options["ssl_ca_certs"],
            tls_cert_file=made.options["ssl_certfile"],
            tls_key_file=made.options["ssl_keyfile"],
        )
        found = by_id(ask_topology(redis).topology)
        assert {address for address, _ in found.values()} == {node.address for node in made.nodes}


def test_several_hosts() -> None:
    """Of the hosts in a URL any that answers is enough: those that do not are told, and so is none of them."""
    with cluster(primaries=3) as made:
        first, second, _ = made.nodes
        whole = by_id(ask_topology(settings(made)).topology)
        found = ask_topology(RedisSettings(url=f"redis://127.0.0.1:1,{first.address},{second.address}/0"))
        assert by_id(found.topology) == whole
        (told,) = found.told
        assert "127.0.0.1:1" in told
        assert f"{first.address} is asked for the nodes instead" in told
        connection = RespConnection.open(RedisSettings(url=f"redis://127.0.0.1:1,{second.address}"), name="test")
        assert connection.address.port == second.port
        connection.close()
        with ValkeyServer() as other:
            place = f"127.0.0.1:{other.port}"
            assert by_id(ask_topology(RedisSettings(url=f"redis://{place},{first.address}")).topology) == whole
            with pytest.raises(RedisRefused, match=f"names several hosts, and {place} is not a node of a cluster"):
                ask_topology(RedisSettings(url=f"redis://127.0.0.1:1,{place}"))
    for ask in (ask_topology, lambda redis: RespConnection.open(redis, name="test")):
        with pytest.raises(RedisUnreachable, match=r"no host in redis.url answers: .*127.0.0.1:1: .*127.0.0.1:2: "):
            ask(RedisSettings(url="redis://127.0.0.1:1,127.0.0.1:2"))


def test_a_named_host_that_hangs() -> None:
    """While a cluster is captured, its nodes are asked before the named one; a stranger at their address is none."""
    with cluster(primaries=2) as made, ValkeyServer() as stranger, socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        redis = RedisSettings(url=f"redis://127.0.0.1:{silent.getsockname()[1]}", read_timeout_ms=200)
        current = ask_topology(settings(made)).topology
        others = [f"127.0.0.1:{stranger.port}", *(node.address for node in current.nodes)]
        assert by_id(ask_topology(redis, others, current=current).topology) == by_id(current)
        with pytest.raises(BlockingIOError):
            silent.accept()
        with pytest.raises(RedisUnreachable, match=r"did not answer within 0\.2 s"):
            ask_topology(redis, others[:1], current=current)


@every_server
def test_a_server_without_cluster_mode_is_one_node(server_binary: Path) -> None:
    """It has all slots and no id."""
    with ValkeyServer(binary=server_binary) as server:
        assert ask_topology(RedisSettings(url=server.url)).topology == Topology()
        config = {"replicaof": f"127.0.0.1 {server.port}", "repl-diskless-sync-delay": "0"}
        with ValkeyServer(binary=server_binary, config=config) as replica:
            client = redis.Redis(port=replica.port)
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", "it is in step")
            found = ask_topology(RedisSettings(url=replica.url))
            assert found.topology == Topology((Node(address=f"127.0.0.1:{server.port}"),))
            assert "is a replica" in found.told[0]
            found = ask_topology(RedisSettings(url=replica.url, read_from="replica"))
            assert found.topology == Topology((Node(reads_at=f"127.0.0.1:{replica.port}"),))
            assert not found.told


def test_replicas_are_read() -> None:
    """Each node of a cluster has the replica that is read in its place, the same as long as it is well."""
    with cluster("valkey-9.1", primaries=3, replicas=2) as made:
        redis = settings(made, read_from="replica")
        first = ask_topology(redis)
        assert not first.told
        second = {node.id: made.replicas_of(made.node(node.id))[1].address for node in first.topology.nodes}
        kept = Topology(tuple(replace(node, reads_at=second[node.id]) for node in first.topology.nodes))
        again = ask_topology(redis, current=kept).topology
        assert [node.reads_at for node in again.nodes] == [node.reads_at for node in kept.nodes]
        assert all(node.address == made.node(node.id).address for node in again.nodes)
        lost = kept.nodes[0]
        dying = next(node for node in made.nodes if node.address == lost.reads_at)
        dying.kill()

        def other() -> str:
            found = ask_topology(redis, current=kept).topology
            return next(node.reads_at for node in found.nodes if node.id == lost.id)

        wait_until(lambda: other() not in ("", lost.reads_at), "another replica is read")
        for node in made.replicas_of(made.node(lost.id)):
            node.kill()
        wait_until(lambda: other() == "", "the primary is read")
        assert any("no replica of" in told for told in ask_topology(redis, current=kept).told)
