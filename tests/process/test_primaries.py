"""Whom Sentinels name, and which of a primary and its replicas is captured and read: on real servers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from engine.capture.preflight import prepare_capture
from engine.config import RedisSettings, Settings
from engine.errors import RedisRefused, RedisUnreachable
from engine.redis import connection as connection_module
from engine.redis import node as node_module
from engine.redis.address import Address
from engine.redis.connection import PRIMARY, REPLICA, RespConnection
from engine.redis.node import Placed, find_node, on_a_replica, role_of, settings_at, settings_for
from engine.redis.sentinel import Named
from engine.routing.nodes import Node
from engine.routing.routes import RouteTable
from tests.cluster import Node as Server
from tests.cluster import Watched, sentinels, wait_until
from tests.cluster.endpoint import leading_to


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with sentinels(replicas=2) as made:
        yield made


@pytest.fixture(scope="module")
def replicated() -> Iterator[Watched]:
    """A primary with two replicas that nobody watches."""
    with sentinels(count=0, replicas=2) as made:
        yield made


def settings(url: str, **others: Any) -> RedisSettings:
    return RedisSettings(url=url, connect_timeout_ms=5_000, **others)


def opened(redis: RedisSettings, **options: Any) -> RespConnection:
    connection = RespConnection.open(redis, name="test", **options)
    connection.close()
    return connection


def found_at(place: str, redis: RedisSettings, current: Node) -> Placed:
    """Return what is found once that is at this replica: Sentinels may take one for down that is only slow."""

    def found() -> Placed | None:
        seen = find_node(redis, current)
        return seen if seen.node.reads_at == place else None

    result: Placed = wait_until(found, f"it is read at {place or 'the primary'}")
    return result


def url_of(server: Server) -> str:
    return f"redis://{server.address}/0"


def test_failovers_are_followed(watched: Watched) -> None:
    """Each connection is made to the primary of its moment, also where the Sentinel that is asked first is gone."""
    redis = settings(watched.url)
    first = opened(redis)
    assert first.address.port == watched.primary().port
    assert (first.address.database, first.facts["role"]) == (0, PRIMARY)
    after = watched.failover("SENTINEL FAILOVER")
    then = opened(redis)
    assert then.address.port == after.port
    assert then.epoch > first.epoch
    watched.wait_until_ok()
    guard = watched.guards[0]
    guard.kill()
    try:
        assert opened(redis).address.port == after.port
    finally:
        guard.server.start()
        watched.wait_until_ok()


def test_old_news(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a Sentinel names is believed only where the server itself says that it is the primary."""
    watched.wait_until_ok()
    replica, primary = watched.replicas()[0], watched.primary()

    def told(address: Address, ask: object) -> Iterator[Named]:
        yield Named(replica.address, 1)
        yield Named(primary.address, 2)

    monkeypatch.setattr(connection_module, "primaries", told)
    found = opened(settings(watched.url))
    assert (found.address.port, found.epoch) == (primary.port, 2)

    def only_old(address: Address, ask: object) -> Sequence[Named]:
        return [Named(replica.address, 1)]

    monkeypatch.setattr(connection_module, "primaries", only_old)
    with pytest.raises(RedisUnreachable, match="is a replica, not the primary"):
        opened(RedisSettings(url=watched.url, connect_timeout_ms=100))


def test_unknown_service(watched: Watched) -> None:
    """A service that the Sentinels do not know, and a server that is none, are told with their remedy."""
    with pytest.raises(RedisRefused, match="knows no service 'typo'"):
        opened(settings(watched.url.replace("/carts/", "/typo/")))
    with pytest.raises(RedisRefused, match="is not a Sentinel"):
        opened(settings(f"redis+sentinel://{watched.primary().address}/carts"))


def test_password_of_sentinels() -> None:
    """Sentinels have a password of their own; one that is refused is told as theirs, and shows in no message."""
    with sentinels(count=1, replicas=0) as made:
        made.guards[0].call("ACL", "SETUSER", "default", "on", "resetpass", ">hunter2")
        opened(settings(made.url, sentinel_password="hunter2"))
        with pytest.raises(RedisRefused, match="Sentinels have passwords of their own") as caught:
            opened(settings(made.url, sentinel_password="hunter3"))
        assert "hunter" not in str(caught.value)
        with pytest.raises(RedisRefused, match="NOAUTH"):
            opened(settings(made.url))


def test_node_of_a_service(watched: Watched) -> None:
    """A service's node is its primary by address, with the epoch that orders it after all primaries before."""
    watched.wait_until_ok()
    redis = settings(watched.url)
    before = find_node(redis)
    assert before.node == Node(address=watched.primary().address, epoch=before.node.epoch)
    assert before.told == ""
    after = watched.failover("SENTINEL FAILOVER")
    now = find_node(redis, before.node).node
    assert now.address == after.address
    assert now.epoch > before.node.epoch
    assert opened(settings_for(redis, now), role=role_of(now)).address.port == after.port
    watched.wait_until_ok()


def test_newest_configuration(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two servers that say that they are the primary, it is that of the newest configuration."""
    with sentinels(count=0, replicas=0) as other:
        old, new = other.nodes[0].address, watched.primary().address

        def told(address: Address, ask: object) -> Sequence[Named]:
            return [Named(old, 3), Named(new, 4), Named(old, 3)]

        monkeypatch.setattr(node_module, "primaries", told)
        assert find_node(settings(watched.url)).node == Node(address=new, epoch=4)


def test_replica_of_a_service(watched: Watched) -> None:
    """A replica that is captured stays as long as it is well; another takes its place, then none but the primary."""
    watched.wait_until_ok()
    redis = settings(watched.url, read_from="replica")
    places = sorted(server.address for server in watched.replicas())
    for place in places:
        found = found_at(place, redis, Node(number=7, reads_at=place))
        assert (found.node.number, found.told) == (7, "")
        assert found.node.address == watched.primary().address
    opened(settings_for(redis, found.node), role=role_of(found.node))
    kept, other = watched.replicas()
    kept.kill()
    try:
        found_at(other.address, redis, Node(reads_at=kept.address))
        other.kill()
        alone = found_at("", redis, Node(reads_at=kept.address))
        assert "changes are captured and read at the primary until one is" in alone.told
    finally:
        for server in (kept, other):
            if not server.is_alive:
                server.server.start()
        watched.wait_until_ok()


def test_named_server(replicated: Watched) -> None:
    """A named primary is captured as it is named; so is a named replica, where that is meant."""
    primary, replica, _ = replicated.nodes
    assert find_node(settings(url_of(primary))) == Placed(Node())
    meant = settings(url_of(replica), read_from="replica")
    found = find_node(meant)
    assert found == Placed(Node(reads_at=replica.address))
    opened(settings_for(meant, found.node), role=role_of(found.node))
    with pytest.raises(RedisUnreachable, match="is a primary, not the replica"):
        opened(settings(url_of(primary)), role=REPLICA)
    with pytest.raises(RedisUnreachable, match="is a replica, not the primary"):
        opened(settings(url_of(replica)), role=PRIMARY)


def test_primary_of_a_named_replica(replicated: Watched) -> None:
    """Who names a replica has its primary captured, also over a replica in between, and learns what it is called."""
    primary, replica, second = replicated.nodes
    found = find_node(settings(url_of(replica)), Node(number=7))
    assert (found.node, found.fault) == (Node(number=7, address=primary.address), None)
    assert f"{replica.address} is a replica: changes are captured and read at its primary" in found.told
    assert primary.address in found.told
    second.call("REPLICAOF", *replica.address.split(":"))
    try:
        assert find_node(settings(url_of(second))).node.address == primary.address
    finally:
        second.call("REPLICAOF", *primary.address.split(":"))
        wait_until(lambda: second.client.info("replication")["master_link_status"] == "up", "the link is up")


def test_primary_that_is_away(replicated: Watched) -> None:
    """A start is refused by a line with its remedy; an engine that runs goes on at the replica, and says so."""
    primary, replica, _ = replicated.nodes
    redis = settings(url_of(replica), node_addresses=(f"{primary.address}=127.0.0.1:1",))
    found = find_node(redis, Node(number=7))
    assert found.node == Node(number=7, reads_at=replica.address)
    assert "cannot connect to 127.0.0.1:1" in found.told
    assert "captured and read at the replica meanwhile" in found.told
    with pytest.raises(RedisRefused, match=f"{replica.address} is a replica, and its primary") as caught:
        prepare_capture(Settings(redis=redis), RouteTable.build([]))
    assert 'redis.read_from = "replica"' in caught.value.hint
    replica.call("ACL", "SETUSER", "default", "-info")
    try:
        assert "does not say which primary it follows" in find_node(redis).told
    finally:
        replica.call("ACL", "SETUSER", "default", "+info")


def test_replica_of_a_named_primary(replicated: Watched) -> None:
    """The primary is asked for its replicas; what they announce is reached where the settings say."""
    primary, *replicas = replicated.nodes
    redis = settings(url_of(primary), read_from="replica")
    wait_until(lambda: primary.client.info("replication")["connected_slaves"] == 2, "both replicas are known")
    wait_until(lambda: find_node(redis).node.reads_at, "one is in step")
    assert find_node(redis).node.reads_at in {server.address for server in replicas}
    second = replicas[1].address
    wait_until(lambda: find_node(redis, Node(reads_at=second)).node.reads_at == second, "it stays where it is")
    elsewhere = [f"{server.address}=127.0.0.1:1" for server in replicas]
    moved = find_node(settings(url_of(primary), read_from="replica", node_addresses=tuple(elsewhere)))
    assert (moved.node, "cannot connect to 127.0.0.1:1" in moved.told) == (Node(), True)


def test_replica_that_is_behind(replicated: Watched) -> None:
    """A replica that has lost its primary is not read, whoever takes it for well."""
    primary, first, second = replicated.nodes
    redis, places = settings(url_of(primary)), [first.address, second.address]
    first.call("REPLICAOF", "127.0.0.1", "1")
    try:
        assert on_a_replica(redis, Node(), Node(reads_at=first.address), places).node.reads_at == second.address
    finally:
        first.call("REPLICAOF", *primary.address.split(":"))
        wait_until(lambda: first.client.info("replication")["master_link_status"] == "up", "the link is up")
    assert on_a_replica(redis, Node(), Node(reads_at=first.address), places).node.reads_at == first.address


def test_replica_without_its_primary(replicated: Watched) -> None:
    """A named replica that has lost its primary gives way to it, as far as it tells where that is."""
    primary, replica, _ = replicated.nodes
    redis = settings(url_of(replica), read_from="replica")
    primary.call("ACL", "SETUSER", "default", "-psync", "-replconf", "-sync")
    primary.call("CLIENT", "KILL", "TYPE", "replica")
    try:
        wait_until(lambda: replica.client.info("replication")["master_link_status"] == "down", "the link is down")
        found = find_node(redis)
        assert found.node == Node(address=primary.address)
        assert "has lost its primary" in found.told
    finally:
        primary.call("ACL", "SETUSER", "default", "+@all")
        wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up", "the link is up")
    assert find_node(redis).node == Node(reads_at=replica.address)


def test_name_of_a_replica(replicated: Watched) -> None:
    """A name that leads to a replica is captured where it leads to now, and stays there as long as that is well."""
    _, replica, other = replicated.nodes
    redis = settings(f"redis://localhost:{replica.port}", read_from="replica")
    wait_until(lambda: find_node(redis).node.reads_at == replica.address, "it is well")
    wait_until(lambda: find_node(redis, Node(reads_at=other.address)).node.reads_at == other.address, "the other stays")
    assert find_node(redis, Node(reads_at="127.0.0.1:1")).node.reads_at == replica.address


def test_several_replicas_behind_a_name(replicated: Watched) -> None:
    """An address that leads to one replica after the other is refused: reads may be older than what events tell."""
    _, *replicas = replicated.nodes
    turns = itertools.cycle([replica.port for replica in replicas])
    with leading_to(lambda: next(turns)) as port, pytest.raises(RedisRefused) as caught:
        find_node(settings(f"redis://127.0.0.1:{port}", read_from="replica"))
    assert f"127.0.0.1:{port} leads to several replicas in turn" in caught.value.message


def test_socket(replicated: Watched) -> None:
    """A server that is reached by a path is reached by it also where it is a replica."""
    redis = settings("unix:///run/server.sock?db=3")
    assert settings_at(redis, "/run/server.sock").url == "unix:///run/server.sock?db=3"
