"""The clusters and Sentinels that other tests run on: nodes, slots and roles really change."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import redis

from engine.routing.nodes import slot_of, slots_in
from tests.cluster import SECRET, Cluster, Failover, Migration, Node, cluster, sentinels, wait_until
from tests.servers import NAMES

KEYS = [b"cart:%d" % number for number in range(200)]


def write(made: Cluster) -> None:
    client = made.client()
    for key in KEYS:
        client.hset(key, "name", key)


def assert_whole(made: Cluster) -> None:
    client = made.client()
    assert [client.hget(key, "name") for key in KEYS] == KEYS


def some_slots(made: Cluster, node: Node) -> list[int]:
    """Return a few slots of this node, those of keys first."""
    ours = {slot for slot in map(slot_of, KEYS) if slot in set(slots_in(made.slots_of(node)))}
    return sorted(ours)[:20]


def assert_slots_move(made: Cluster, how: Migration) -> None:
    write(made)
    source, target = made.primaries()[:2]
    slots = some_slots(made, source)
    made.move_slots(slots, source, target, how)
    made.wait_until_ok()
    assert set(slots) <= set(slots_in(made.slots_of(target)))
    assert_whole(made)


def assert_failovers(made: Cluster, hows: Sequence[Failover]) -> None:
    write(made)
    for how in hows:
        before = made.owner_of(KEYS[0])
        after = made.failover(before, how)
        made.cont(before)
        if how == "kill":
            made.restart(before)
        made.wait_until_ok()
        assert made.owner_of(KEYS[0]) is after
        assert_whole(made)


@pytest.mark.parametrize("server", NAMES)
def test_every_server_has_clusters(server: str) -> None:
    """Slots move by SETSLOT and MIGRATE, nodes are added and removed, on every server."""
    with cluster(server, primaries=2) as made:
        assert_slots_move(made, "migrate")
        node = made.add_node()
        source = made.owner_of(KEYS[0])
        slots = some_slots(made, source)
        made.move_slots(slots, source, node)
        assert_whole(made)
        made.move_slots(slots, node, source)
        made.remove_node(node)
        assert_whole(made)


def test_migrate_slots() -> None:
    """Valkey's nodes move slots by themselves."""
    with cluster("valkey-9.1", primaries=2) as made:
        assert_slots_move(made, "migrateslots")


def test_failovers() -> None:
    """A replica takes over in every way, with all data, and the old primary follows it."""
    with cluster(primaries=3, replicas=1) as made:
        assert_failovers(
            made, ["CLUSTER FAILOVER", "CLUSTER FAILOVER FORCE", "CLUSTER FAILOVER TAKEOVER", "stop", "kill"]
        )


def test_partition() -> None:
    """A primary that is cut off is replaced, and nobody reaches it; once healed it follows."""
    with cluster("valkey-9.1", primaries=3, replicas=1, proxied=True) as made:
        write(made)
        before = made.owner_of(KEYS[0])
        (replica,) = made.replicas_of(before)
        made.partition(before)
        wait_until(lambda: made.primaries() and replica.known()[replica.id].is_primary, "the replica takes over")
        reached = redis.Redis(port=before.announced_port, socket_timeout=0.2)
        with pytest.raises(redis.TimeoutError):
            reached.ping()
        assert before.known()[before.id].is_primary  # it does not know
        made.heal()
        made.wait_until_ok()
        assert made.owner_of(KEYS[0]) is replica
        assert_whole(made)


def test_tls_and_users() -> None:
    """Clients, replicas and moving slots need the certificates, and a user's password."""
    with cluster(
        "redis-7.0",
        primaries=2,
        replicas=1,
        tls=True,
        users=[f"reader on >{SECRET} ~* +@read +@connection +cluster +command"],
    ) as made:
        assert_slots_move(made, "migrate")
        with pytest.raises(redis.ConnectionError):
            redis.Redis(port=made.nodes[0].port).ping()
        reader = made.client(username="reader")
        assert reader.hget(KEYS[0], "name") == KEYS[0]
        with pytest.raises(redis.exceptions.NoPermissionError):
            reader.hset(KEYS[0], "name", b"")


@pytest.mark.parametrize("server", ["valkey-9.1", "redis-7.0"])
def test_sentinels(server: str) -> None:
    """Sentinels name a new primary when the old one is killed."""
    with sentinels(server) as made:
        made.client().set("k", 1)
        made.wait_until_replicated()
        before = made.primary()
        assert made.failover("kill") is not before
        assert made.client().get("k") == b"1"


def test_failover_command() -> None:
    """Without Sentinels, a primary hands its role to a replica when it is told to."""
    with sentinels("redis-7.0", count=0, replicas=1) as made:
        before = made.primary()
        before.client.set("k", 1)
        after = made.failover("FAILOVER")
        made.wait_until_ok()
        assert (after is before, after.client.get("k"), made.replicas()) == (False, b"1", [before])
