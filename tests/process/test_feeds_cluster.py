"""A subscriber that listens to the nodes of a real cluster, while slots and roles move."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from engine.capture.own_keys import tag_of
from engine.config import RedisSettings
from engine.lifecycle import SetFeeds, TopologyChanged, TopologyInForce
from engine.model import Missed
from engine.ring.counters import Counter
from engine.routing.feeds import Feed
from engine.routing.nodes import SLOTS, Node, as_ranges, slot_of, slots_in
from tests.capture_rig import Taken, feed_of, subscriber, wait_for
from tests.cluster import Cluster, cluster
from tests.cluster import Node as Member
from tests.shard_plan import plan_shards

FLAGS = {"notify-keyspace-events": "KA"}
NO_CONFIG = "engine on >secret ~* &* +@all -config"


def feed(made: Cluster, number: int, member: Member, *, replica: Member | None = None) -> Feed:
    """Return a primary, with the slots that it has now, as a node of this number."""
    epoch = int(member.info()["cluster_my_epoch"])
    reads_at = replica.address if replica is not None else ""
    node = Node(number, member.id, member.address, made.slots_of(member), epoch, reads_at)
    return feed_of(plan_shards(1, 0, ())[0], node)


def keys_of(taken: Taken) -> set[bytes]:
    return {change.key for _, _, change in taken}


def hset(made: Cluster, keys: set[bytes]) -> None:
    client = made.client()
    for key in keys:
        client.hset(key, "f", "v")


def kill_subscription(member: Member) -> None:
    for client in member.client.client_list():
        if client["name"] == "engine-subscriber-1":
            member.client.client_kill_filter(_id=client["id"])


@pytest.mark.parametrize("server", ["valkey-9.1", "redis-6.2"])
def test_all_nodes_in_one_subscriber(server: str) -> None:
    """Every key arrives from its owner, once, and each node has a watermark; a cut connection is repaired by idle
    times there, as on any server.
    """
    with cluster(server, config=FLAGS) as made:
        feeds = [feed(made, number, member) for number, member in enumerate(made.primaries())]
        with subscriber(*feeds) as running:
            keys = {b"key:%d" % number for number in range(300)}
            hset(made, keys)
            taken = running.take_until(lambda taken: len(taken) >= len(keys))
            assert sorted(change.key for _, _, change in taken) == sorted(keys)
            for number, member in enumerate(made.primaries()):
                running.wait_past(number, member.client)
            assert running.count(Counter.GAPS) == 0


def test_a_repair_in_a_cluster_is_narrowed(capfd: pytest.CaptureFixture[str]) -> None:
    """Idle times are asked of the node itself, also where that is a replica, which has to be told to answer."""
    with cluster(primaries=1, replicas=1, config=FLAGS) as made:
        primary = made.primaries()[0]
        replica = made.replicas_of(primary)[0]
        with subscriber(feed(made, 0, primary, replica=replica)) as running:
            made.client().hset("old", "f", "v")
            assert keys_of(running.take_until(bool)) == {b"old"}
            running.wait_past(0, replica.client)
            said = ""

            def is_narrowed() -> bool:
                # A busy machine may have the server's idle clock stand still: then nothing is narrowed.
                nonlocal said
                repairs = running.count(Counter.REPAIRS)
                kill_subscription(replica)
                wait_for(lambda: running.count(Counter.REPAIRS) > repairs, "the gap is repaired")
                running.wait_past(0, replica.client)
                said += "".join(capfd.readouterr())
                return "narrowed=True" in said

            wait_for(is_narrowed, "idle times are believed")
    assert "repair_failed" not in said


@pytest.mark.parametrize("rights", ["", "-cluster|getkeysinslot"])
def test_gained_slots_are_listed(rights: str) -> None:
    """Where few of a node's slots were gained, its other keys are not even looked at; where it may not be asked to list
    a slot's keys, it is scanned.
    """
    with cluster(primaries=1, users=[f"engine on >secret ~* &* +@all {rights}"], config=FLAGS) as made:
        settings = RedisSettings(url="redis://127.0.0.1:1", username="engine", password="secret")
        member = made.primaries()[0]
        keys = {b"key:%d" % number for number in range(1_500)} | {b"{tag}:%d" % number for number in range(700)}
        hset(made, keys)
        whole = feed(made, 0, member)
        few = as_ranges({slot_of(b"{tag}"), *range(100)})
        lacking = as_ranges(set(range(SLOTS)).difference(slots_in(few)))
        lacks = replace(whole, node=replace(whole.node, slots=lacking))
        with subscriber(lacks, redis_settings=settings) as running:
            running.wait_past(0, member.client)
            scans = scans_of(member)
            running.send(SetFeeds(2, (whole,), {0: (Missed(1_000, slots=few),)}))
            taken = running.take_repaired(member.client, "marker")
            gained = set(slots_in(few))
            assert keys_of(taken) == {key for key in keys if slot_of(key) in gained}
            assert (scans_of(member) > scans) == bool(rights)
            running.wait_past(0, member.client)


def scans_of(member: Member) -> int:
    return int(member.client.info("commandstats").get("cmdstat_scan", {"calls": 0})["calls"])


@pytest.mark.parametrize("how", ["migrate", "migrateslots"])
def test_a_slot_that_moves(how: Any) -> None:
    """The nodes are asked for; the slot's new feed finds all of its keys, and hears of what is written there."""
    with cluster(primaries=2, config=FLAGS) as made:
        keys, slot, source = {b"{tag}:%d" % number for number in range(50)}, slot_of(b"{tag}"), made.owner_of(b"{tag}")
        target = next(member for member in made.primaries() if member is not source)
        hset(made, keys)
        with subscriber(feed(made, 0, source), feed(made, 1, target)) as running:
            for number, member in ((0, source), (1, target)):
                running.wait_past(number, member.client)
            running.heard()
            made.move_slots([slot], source, target, how)
            assert "cluster_" in running.wait_told(TopologyChanged).reason  # type: ignore[union-attr]
            running.take()
            feeds = (feed(made, 0, source), feed(made, 1, target))
            running.send(SetFeeds(2, feeds, {1: (Missed(1_000, slots=((slot, slot),)),)}))
            running.wait_told(TopologyInForce(2))
            found = running.take_until(lambda taken: keys <= keys_of(taken))
            assert keys_of(found) == keys
            made.client().hset("{tag}:new", "f", "v")
            assert keys_of(running.take_until(bool)) == {b"{tag}:new"}
            for number, member in ((0, source), (1, target)):
                running.wait_past(number, member.client)
            assert running.count(Counter.RECONNECTS) == running.count(Counter.GAPS) == 0


@pytest.mark.parametrize("how", ["kill", "CLUSTER FAILOVER"])
def test_a_failover(how: Any) -> None:
    """The nodes are asked for; the old primary's watermark stands, whatever it still says; the new one's moves on."""
    with cluster(primaries=3, replicas=1, config=FLAGS) as made:
        old, other, _ = made.primaries()
        with subscriber(feed(made, 0, old), feed(made, 1, other)) as running:
            for number, member in ((0, old), (1, other)):
                running.wait_past(number, member.client)
            new = made.failover(old, how)
            running.wait_told(TopologyChanged)
            made.wait_until_replaced(old)
            running.wait_past(1, other.client)
            stands = running.heard_until(node=0).since_ms
            for _ in range(2):
                running.wait_past(1, other.client)
            assert running.heard_until(node=0).since_ms == stands
            running.send(SetFeeds(2, (feed(made, 2, new), feed(made, 1, other)), {2: (Missed(1_000),)}))
            running.wait_told(TopologyInForce(2))
            running.wait_past(2, new.client)
            client = made.client()
            keys = {b"key:%d" % number for number in range(100)}
            keys = {key for key in keys if made.owner_of(key) in (new, other)}
            for key in keys:
                client.hset(key, "f", "v")
            running.take_until(lambda taken: keys <= keys_of(taken))


def test_canaries_in_a_cluster() -> None:
    """Where nodes do not tell their flags, each has a canary in a slot of its own; one that moves away is followed."""
    with cluster(primaries=2, users=[NO_CONFIG], config=FLAGS) as made:
        settings = RedisSettings(url="redis://127.0.0.1:1", username="engine", password="secret")
        one, other = made.primaries()
        with subscriber(feed(made, 0, one), feed(made, 1, other), redis_settings=settings) as running:
            for number, member in ((0, one), (1, other)):
                running.wait_past(number, member.client)
            keys = {b"key:%d" % number for number in range(20)}
            hset(made, keys)
            assert keys_of(running.take_until(lambda taken: keys <= keys_of(taken))) == keys
            before = feed(made, 0, one)
            tag = tag_of(before.node)
            assert tag
            made.move_slots([slot_of(tag.encode())], one, other)
            after = feed(made, 0, one)
            assert tag_of(after.node) != tag
            running.send(SetFeeds(2, (after, feed(made, 1, other))))
            running.wait_told(TopologyInForce(2))
            for number, member in ((0, one), (1, other)):
                running.wait_past(number, member.client)
            assert running.count(Counter.RECONNECTS) == 0
