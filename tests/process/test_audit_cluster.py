"""What audits, comparisons and marks ask of a real cluster, while its slots and roles move."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from engine.audit.deletions import Trust, trust_of
from engine.audit.server import Server
from engine.config import OriginalSettings, RedisSettings, Settings
from engine.errors import RedisUnreachable
from engine.marks.marker import Mark, Marker, NotListening
from engine.marks.standing import Standing
from engine.redis.cluster.nodes import Nodes
from engine.redis.connection import pack
from engine.routing.events import REPAIR
from engine.routing.nodes import Node as TopologyNode
from engine.routing.nodes import Topology, slot_of, slots_in
from engine.routing.slices import WHOLE, Slice
from tests.cluster import Cluster, Node, cluster, moves, wait_until

KEYS = [b"cart:%d" % number for number in range(3_000)]
PREFIX = b"__keyspace@0__:"


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    with cluster(primaries=3) as one:
        client = one.client()
        pipe = client.pipeline()
        for key in KEYS:
            pipe.hset(key, "name", key)
        pipe.execute()
        yield one


@contextlib.contextmanager
def server_of(made: Cluster) -> Iterator[Server]:
    server = Server(Settings(redis=RedisSettings(url=made.url)), 0, "engine-audit")
    try:
        yield server
    finally:
        server.close()


def types_of(server: Server, keys: list[bytes]) -> list[str]:
    """Return the types of these keys, as an audit reads them."""
    values = [value for values in server.read(keys, "hset") for value in values]
    assert [value.key for value in values] == keys
    assert not any(value.error for value in values)
    return [value.type for value in values]


def some_slots(made: Cluster, node: Node, count: int = 5) -> list[int]:
    """Return a few slots of this node that have keys."""
    ours = set(slots_in(made.slots_of(node)))
    return sorted({slot for slot in map(slot_of, KEYS) if slot in ours})[:count]


def test_all_nodes_count_and_are_scanned(made: Cluster) -> None:
    """The keys of all primaries are counted, and each is found once while nothing moves."""
    with server_of(made) as server:
        assert server.count() == len(KEYS)
        assert sorted(key for keys in server.scan("hash") for key in keys) == sorted(KEYS)
        assert not server.may_evict()
        assert {server.place_of(key) for key in KEYS} == {node.id for node in made.primaries()}


def test_primaries_tell_what_their_replicas_may_lose() -> None:
    """Where replicas are read, their primary knows whether keys were evicted; while it is away, nobody does."""
    with cluster(primaries=1, replicas=1) as made:
        (primary,) = made.primaries()
        (replica,) = made.replicas_of(primary)
        url = f"redis://{replica.address}"
        server = Server(Settings(redis=RedisSettings(url=url, read_from="replica")), 0, "engine-audit")
        with contextlib.closing(server):
            assert [node.reads_at for node in server._nodes.all] == [replica.address]
            assert not server.may_evict()
            primary.client.config_set("maxmemory-policy", "allkeys-lru")
            primary.client.config_set("maxmemory", "100mb")
            assert server.may_evict()
            primary.client.config_set("maxmemory", "0")
            assert not server.may_evict()
            primary.kill()
            assert server.may_evict()


def test_a_slot_whose_keys_move_one_by_one(made: Cluster) -> None:
    """Keys of both nodes are found, those that moved are no absent ones, and those that never were are."""
    source, target = made.primaries()[:2]
    (slot,) = some_slots(made, source, 1)
    client = made.client()
    (key,) = [key for key in KEYS if slot_of(key) == slot][:1]
    more = [b"{%s}:%d" % (key, number) for number in range(20)]
    for one in more:
        client.hset(one, "name", one)
    moves.begin(slot, source, target)
    moved = source.call("CLUSTER", "GETKEYSINSLOT", slot, 10)
    source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 10_000, "KEYS", *moved)
    try:
        with server_of(made) as server:
            never = [b"{%s}:never" % key, b"never"]
            assert server.absent([*more, *never, *KEYS[:100]]) == never
            assert {key for keys in server.scan() for key in keys} == {*KEYS, *more}
            assert types_of(server, [*more, *never]) == ["hash"] * len(more) + ["none"] * len(never)
    finally:
        moves.move_keys(slot, source, target)
        moves.end(slot, source, target, [made.primaries()[2]])
        for one in more:
            client.delete(one)


@pytest.mark.parametrize("how", ["migrate", "migrateslots"])
def test_slots_that_move_behind_the_scan_are_scanned_again(made: Cluster, how: Any) -> None:
    """A slot that moves from a node that is not scanned yet to one that is would be passed by."""
    with server_of(made) as server:
        seen: set[bytes] = set()
        nodes = [made.node(node.id) for node in server._nodes.all]
        has_moved = False
        for keys in server.scan():
            seen.update(keys)
            owners = {made.owner_of(key).id for key in keys} if not has_moved else set()
            if owners == {nodes[1].id}:
                has_moved = True
                made.move_slots(some_slots(made, nodes[2]), nodes[2], nodes[0], how)
        assert has_moved
        assert seen >= set(KEYS)


def test_a_primary_that_fails_is_followed() -> None:
    """While a replica takes over, questions wait for it, and the scan is complete; it is no new dataset."""
    with cluster(primaries=3, replicas=1) as made:
        client = made.client()
        for key in KEYS[:300]:
            client.hset(key, "name", key)
        failing = made.primaries()[0]
        for node in made.primaries():
            wait_until(lambda node=node: node.call("WAIT", 1, 100) == 1, "replicas follow")
        with server_of(made) as server:
            known = {node: facts.dataset for node, facts in server.datasets().items()}
            scan = server.scan()
            seen = set(next(scan))
            types_of(server, KEYS[:300])
            failing.kill()
            assert types_of(server, KEYS[:300]) == ["hash"] * 300
            assert server.absent([*KEYS[:300], b"never"]) == [b"never"]
            for keys in scan:
                seen.update(keys)
            assert seen == set(KEYS[:300])
            assert types_of(server, [*KEYS[:300], b"never"]) == ["hash"] * 300 + ["none"]
            made.wait_until_ok()
            server._nodes.refresh()
            facts = server.datasets()
            assert len(facts) == 3 and failing.id not in facts
            assert set(trust_of(known, facts).values()) == {Trust()}


def test_a_primary_that_comes_back_empty_is_a_new_dataset() -> None:
    """One that lost its keys by a restart, before anybody took its place, allows no deletions."""
    with cluster(primaries=3) as made:
        node = made.primaries()[0]
        with server_of(made) as server:
            known = {id: facts.dataset for id, facts in server.datasets().items()}
        node.kill()
        made.restart(node)
        made.wait_until_ok()
        with server_of(made) as server:
            trust = trust_of(known, server.datasets())
        assert {id for id, one in trust.items() if one.is_anew} == {node.id}


class Ear:
    """A subscriber of one node, as an engine's, or as somebody else's."""

    def __init__(self, node: Node, name: str = "engine-subscriber-1") -> None:
        self.client = redis.Redis(port=node.port, client_name=name)
        self.pubsub = self.client.pubsub()
        self.pubsub.psubscribe(PREFIX + b"*")
        wait_until(lambda: self.pubsub.get_message(timeout=1), "it is subscribed")

    def heard(self, count: int) -> set[bytes]:
        found: set[bytes] = set()
        wait_until(lambda: self._take(found) and len(found) >= count, "it is heard")
        return found

    def _take(self, found: set[bytes]) -> bool:
        message = self.pubsub.get_message(timeout=1)
        if message is not None and message["type"] == "pmessage":
            found.add(message["channel"].removeprefix(PREFIX))
        return True

    def close(self) -> None:
        self.pubsub.close()
        self.client.close()


@pytest.fixture
def nodes(made: Cluster) -> Iterator[Nodes]:
    found = Nodes(RedisSettings(url=made.url), "engine-redrive")
    yield found
    found.close()


def test_marks_are_sure_where_the_owner_s_feed_hears_them(made: Cluster, nodes: Nodes) -> None:
    """Every node hears of a mark, but only who listens to the owner is counted; nobody else is taken for an engine."""
    marks = [Mark(key, REPAIR) for key in KEYS[:60]]
    ears = [Ear(node) for node in made.primaries()]
    try:
        assert Marker(nodes, lambda: None).mark(marks) == [True] * len(marks)
        for ear in ears:
            assert ear.heard(len(marks)) == {mark.key for mark in marks}
        deaf = made.primaries()[0]
        ears.pop(0).close()
        monitor = Ear(deaf, "monitor")
        ears.append(monitor)
        wait_until(lambda: b"engine-subscriber" not in deaf.call("CLIENT", "LIST", "TYPE", "pubsub"), "it has gone")
        marker = Marker(nodes, lambda: None)
        sure = marker.mark(marks)
        assert sure == [made.owner_of(mark.key) is not deaf for mark in marks]
        assert isinstance(marker.problem, NotListening)
        assert str(sure.count(False)) in str(marker.problem)
    finally:
        for ear in ears:
            ear.close()


def test_a_mark_for_a_slot_that_has_moved_goes_to_its_new_owner(made: Cluster, nodes: Nodes) -> None:
    """Who published to the old owner notices, and publishes again, before anything counts."""
    source, target = made.primaries()[:2]
    (slot,) = some_slots(made, source, 1)
    key = next(key for key in KEYS if slot_of(key) == slot)
    made.move_slots([slot], source, target)
    ear = Ear(target)
    try:
        assert nodes.owner(key).id == source.id
        standing = Standing((1, 1), 0, True, {source.id: 1 << 62, target.id: 1 << 62}, WHOLE)
        assert Marker(nodes, lambda: standing).mark([Mark(key, REPAIR)]) == [True]
        assert nodes.owner(key).id == target.id
    finally:
        ear.close()


def test_a_slot_without_an_owner(nodes: Nodes) -> None:
    """It is named, with the remedy."""
    nodes._owners[slot_of(b"key")] = None
    with pytest.raises(RedisUnreachable, match=rf"slot {slot_of(b'key')} has no owner.*ADDSLOTSRANGE"):
        nodes.ask("tell", [(b"key", b"")])


@pytest.mark.parametrize(
    ("count", "prefix", "by_nodes"), [(2, "", True), (2, "__meta_record__", False), (4, "", False)]
)
def test_slices_are_of_nodes_where_there_are_enough(made: Cluster, count: int, prefix: str, by_nodes: bool) -> None:
    """Every key is of one slice; a slice is whole nodes unless there are fewer, or mapping hashes are heard of."""
    settings = Settings(redis=RedisSettings(url=made.url), original=OriginalSettings(mapping_prefix=prefix))
    server = Server(settings, 0, "engine-audit")
    try:
        tests = [server.slice_test(Slice(index, count)) for index in range(count)]
        assert all(sum(owns(key) for owns in tests) == 1 for key in KEYS)
        places = [{server.place_of(key) for key in KEYS if owns(key)} for owns in tests]
        assert (sum(map(len, places)) == len(made.primaries())) is by_nodes
    finally:
        server.close()


def test_marks_are_published_where_an_engine_reads_replicas() -> None:
    """An engine that listens to replicas hears a mark there; `TOUCH` and all questions go there too."""
    with cluster(primaries=2, replicas=1) as made:
        client = made.client()
        for key in KEYS[:40]:
            client.hset(key, "name", key)
        chosen = {primary.id: made.replicas_of(primary)[0] for primary in made.primaries()}
        for primary in made.primaries():
            wait_until(lambda node=primary: node.call("WAIT", 1, 100) == 1, "replicas follow")
        ears = [Ear(node) for node in chosen.values()]
        settings = RedisSettings(url=made.url, read_from="replica")
        known = Topology(tuple(TopologyNode(id=id, reads_at=node.address) for id, node in chosen.items()))
        nodes = Nodes(settings, "engine-redrive", known=known)
        try:
            assert {node.id: node.reads_at for node in nodes.all} == {id: node.address for id, node in chosen.items()}
            assert Marker(nodes, lambda: None).mark([Mark(key, REPAIR) for key in KEYS[:40]]) == [True] * 40
            for node in chosen.values():
                assert node.client.info("commandstats")["cmdstat_touch"]["calls"] > 0
        finally:
            nodes.close()
            for ear in ears:
                ear.close()


def test_a_cluster_is_found_by_any_node_that_the_engine_knows(made: Cluster) -> None:
    """Where the node that the URL names is away, one that a running engine listens to is asked."""
    known = Topology(tuple(TopologyNode(id=node.id, address=node.address) for node in made.primaries()))
    away = RedisSettings(url="redis://127.0.0.1:1")
    nodes = Nodes(away, "engine-redrive", known=known)
    try:
        assert {node.id for node in nodes.all} == {node.id for node in made.primaries()}
        assert nodes.ask("tell whether it exists", [(b"never", pack("EXISTS", b"never"))]) == [0]
    finally:
        nodes.close()
    with pytest.raises(RedisUnreachable, match=r"127\.0\.0\.1:1"):
        Nodes(away, "engine-redrive")
