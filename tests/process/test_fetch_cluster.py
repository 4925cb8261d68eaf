"""Reads of real clusters: slots that move, nodes that are away, and what the others have to do with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from engine.clock import monotonic_ms
from engine.config import RedisSettings
from engine.delivery.reading.fetch import Fetched, Fetcher, Wish
from engine.delivery.reading.job import Key
from engine.errors import RedisRefused
from engine.routing.nodes import Node as Place
from engine.routing.nodes import Topology, slot_of
from tests.cluster import Cluster, Node, cluster, moves, wait_until
from tests.cluster.reading import ReadRig, topology_of

SERVERS = ("valkey-9.1", "redis-7.0")
KEYS = [b"cart:%d" % number for number in range(200)]
ASKED: list[Key] = [(key, "hset") for key in KEYS]


@pytest.fixture(scope="module", params=SERVERS)
def made(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    # A node that a test halts must not be taken for dead.
    with cluster(request.param, node_timeout_ms=60_000) as made:
        yield made


@pytest.fixture
def client(made: Cluster) -> Any:
    client = made.client()
    client.flushall(target_nodes=client.PRIMARIES)
    for number, key in enumerate(KEYS):
        client.hset(key, "n", number)
    return client


def bodies(values: Sequence[Fetched]) -> list[str | None]:
    assert not any(value.error for value in values), values
    return [value.body for value in values]


EXPECTED: list[str | None] = [f'{{"n":"{number}"}}' for number in range(len(KEYS))]


@contextmanager
def moving(made: Cluster, slot: int, target: Node | None = None) -> Iterator[tuple[Node, Node]]:
    """Yield source and target while a slot is on its way; it arrives at the end."""
    owner = next(node for node in made.primaries() if any(a <= slot <= b for a, b in made.slots_of(node)))
    target = target or next(node for node in made.primaries() if node is not owner)
    moves.begin(slot, owner, target)
    try:
        yield owner, target
    finally:
        moves.move_keys(slot, owner, target)
        moves.end(slot, owner, target, [node for node in made.primaries() if node not in (owner, target)])
        made.wait_until_ok()


def test_keys_of_all_nodes_are_read_at_once(made: Cluster, client: Any) -> None:
    """A batch is read from all primaries, in its order; keys that are gone are gone; nobody is asked twice."""
    asked: list[Key] = [*ASKED, (b"gone", "hset")]
    with ReadRig(made).connected() as rig:
        rig.read_all(asked)
        before = calls(made, "hgetall")
        read = rig.read(asked)
        after = calls(made, "hgetall")
        values = [value for value in read.values if value is not None]
        assert read.is_whole()
        assert bodies(values) == [*EXPECTED, None]
        assert [value.key for value in values] == [key for key, _ in asked]
        assert after - before == len(asked)
        assert (rig.changed, rig.failures) == ([], 0)


def calls(made: Cluster, command: str) -> int:
    return sum(node.client.info("commandstats")[f"cmdstat_{command}"]["calls"] for node in made.primaries())


def agree_on_epochs(made: Cluster) -> bool:
    views = [{one.id: one.epoch for one in node.known().values()} for node in made.alive()]
    return all(view == views[0] for view in views)


def redirections(made: Cluster) -> int:
    told = [node.client.info("errorstats").get("errorstat_MOVED", {"count": 0}) for node in made.primaries()]
    return sum(one["count"] for one in told)


def test_one_who_waits_reads_all_nodes(made: Cluster, client: Any) -> None:
    """An audit's reads wait for all nodes, follow slots that moved, and stop where bodies are enough."""
    outdated = topology_of(made)
    with moving(made, slot_of(KEYS[0])):
        pass
    fetcher = Fetcher(RedisSettings(url=made.url), 0, "test", topology=outdated)
    assert bodies(fetcher.fetch(ASKED)) == EXPECTED
    first = fetcher.fetch(ASKED, body_chars_max=1)
    assert [value.key for value in first] == KEYS[: len(first)]
    fetcher.close()


def test_hash_tags_name_the_slot(made: Cluster, client: Any) -> None:
    """Keys with one tag are asked of one node, whatever else they hold."""
    keys = [b"{tag}:%d" % number for number in range(20)] + [b"{}tag", b"{tag", b"a{tag}{b}", b"{tag}}"]
    for key in keys:
        client.hset(key, "n", 1)
    with ReadRig(made).connected() as rig:
        read = rig.read([(key, "hset") for key in keys])
        assert bodies([value for value in read.values if value is not None]) == ['{"n":"1"}'] * len(keys)
        assert rig.changed == []


def test_keys_of_a_slot_that_moves_are_read_where_they_are(made: Cluster, client: Any) -> None:
    """While a slot migrates, some keys are here and some there, some are gone: each is read where it is."""
    keys = [b"{on-its-way}:%d" % number for number in range(10)]
    for number, key in enumerate(keys):
        client.hset(key, "n", number)
        client.pexpireat(key, 4_102_444_800_000 + number * 1_000_000_000)
    asked: list[Key] = [(key, event) for key in keys for event in ("hset", "expire")]
    asked += [(b"{on-its-way}:gone", "hset"), (b"{on-its-way}:deleted", "del"), *ASKED]
    with ReadRig(made).connected() as rig:
        settled = rig.read_all(asked, Wish(include_expiry=True, explained=frozenset({"del"})))
        with moving(made, slot_of(keys[0])) as (source, target):
            source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 10_000, "KEYS", *keys[:5])
            read = rig.read(asked, Wish(include_expiry=True, explained=frozenset({"del"})))
            assert read.is_whole()
            values = [value for value in read.values if value is not None]
            assert bodies(values) == bodies(settled)
            # MIGRATE says how long a key still has, and not until when.
            pairs = zip(values, settled, strict=True)
            assert all(abs(now.expires_at_ms - then.expires_at_ms) < 100_000_000 for now, then in pairs)
            assert all(now.version > then.version for now, then in zip(values, settled, strict=True))
            # A key alone that is elsewhere says nothing of its slot.
            assert rig.changed == []
            # Whoever is asked for a key that is not his says little of why it is gone.
            assert not values[len(keys) * 2].is_taken_away
        after = rig.read_all(asked)
        assert bodies(after) == bodies(settled)
        assert all(now.version > then.version for now, then in zip(after, values, strict=True))
        assert rig.changed == ["slots have moved"]


@pytest.mark.parametrize("how", ["migrate", "migrateslots"])
def test_a_slot_that_moved_is_read_at_its_new_owner(made: Cluster, client: Any, how: Any) -> None:
    """MOVED is followed in the same read, remembered, and reported; versions of its keys grow, there and back."""
    if how == "migrateslots" and "valkey_version" not in made.nodes[0].client.info("server"):
        pytest.skip("the server does not move slots by itself")
    slot = slot_of(KEYS[0])
    with ReadRig(made).connected() as rig:
        before = rig.read_all(ASKED)
        for _ in range(4):
            owner = made.owner_of(KEYS[0])
            target = next(node for node in made.primaries() if node is not owner)
            # Who takes a slot over without having heard of its owner's epoch has none that is higher.
            wait_until(lambda: agree_on_epochs(made), "all nodes know all epochs")
            made.move_slots([slot], owner, target, how=how)
            assert int(target.info()["cluster_my_epoch"]) > int(owner.info()["cluster_my_epoch"])
            read = rig.read(ASKED)
            assert read.is_whole()
            after = [value for value in read.values if value is not None]
            assert bodies(after) == EXPECTED
            assert all(now.version > then.version for now, then in zip(after, before, strict=True))
            redirected = redirections(made)
            before = rig.read_all(ASKED)
            assert redirections(made) == redirected
        assert set(rig.changed) == {"slots have moved"}
        rig.fetcher.set_topology(topology_of(made))
        assert all(reader.is_ready() for reader in rig.fetcher.readers.all())
        assert bodies(rig.read_all(ASKED)) == EXPECTED


def test_nobody_but_the_owner_says_that_a_key_is_gone(made: Cluster, client: Any) -> None:
    """With a table in which every slot is another node's, no key is taken for gone."""
    right = topology_of(made)
    slots = [node.slots for node in right.nodes]
    wrong = [
        Place(node.number, node.id, node.address, ranges, node.epoch)
        for node, ranges in zip(right.nodes, slots[1:] + slots[:1], strict=True)
    ]
    with ReadRig(made, Topology(tuple(wrong), is_cluster=True)).connected() as rig:
        read = rig.read(ASKED)
        assert bodies([value for value in read.values if value is not None]) == EXPECTED
        assert read.is_whole()
        assert rig.changed == ["slots have moved"]


def test_nodes_that_nobody_named_are_found(made: Cluster, client: Any) -> None:
    """A node that the topology does not know yet is connected to once another one names it; its keys wait for that."""
    known = topology_of(made).nodes[0]
    alone = Place(known.number, known.id, known.address, ((0, 16_383),), known.epoch)
    with ReadRig(made, Topology((alone,), is_cluster=True)).connected() as rig:
        read = rig.read(ASKED)
        assert 0 < read.found < len(ASKED)
        assert {hold.reader.address.port for hold in read.holds if hold.reader} == {
            node.port for node in made.primaries() if node.id != known.id
        }
        assert bodies(rig.read_all(ASKED)) == EXPECTED
        assert rig.freed


def test_addresses_of_the_clusters_own_network_are_mapped(made: Cluster, client: Any) -> None:
    """What nodes call each other is translated by ``redis.node_addresses``."""
    known = topology_of(made).nodes[0]
    alone = Place(known.number, known.id, known.address, ((0, 16_383),), known.epoch)
    told = tuple(f"{node.address}=localhost:{node.port}" for node in made.primaries())
    with ReadRig(made, Topology((alone,), is_cluster=True), node_addresses=told).connected() as rig:
        assert bodies(rig.read_all(ASKED)) == EXPECTED
        assert {reader.address.host for reader in rig.fetcher.readers.all()} == {"127.0.0.1", "localhost"}


def test_a_slot_without_an_owner_holds_up_its_keys_alone(made: Cluster, client: Any) -> None:
    """They wait, the rest is read, and the slot is reported."""
    slot = slot_of(KEYS[0])
    owner = made.owner_of(KEYS[0])
    nodes = tuple(
        Place(n.number, n.id, n.address, tuple(without(n.slots, slot)), n.epoch) for n in topology_of(made).nodes
    )
    with ReadRig(made, Topology(nodes, is_cluster=True)).connected() as rig:
        read = rig.read(ASKED)
        held = [KEYS[index] for hold in read.holds for index in hold.indexes]
        assert held == [key for key in KEYS if slot_of(key) == slot]
        assert read.found == len(KEYS) - len(held)
        assert rig.changed == ["a slot has no owner"]
        rig.fetcher.set_topology(topology_of(made))
        assert bodies(rig.read_all(ASKED)) == EXPECTED
        assert made.owner_of(KEYS[0]) is owner


def without(ranges: Sequence[tuple[int, int]], slot: int) -> Iterator[tuple[int, int]]:
    for first, last in ranges:
        if first <= slot <= last:
            yield from ((a, b) for a, b in ((first, slot - 1), (slot + 1, last)) if a <= b)
        else:
            yield first, last


def test_a_halted_node_holds_up_its_keys_alone(made: Cluster, client: Any) -> None:
    """It is waited for a little while; what it says late is used, and meanwhile it is not asked again."""
    with ReadRig(made).connected() as rig:
        settled = rig.read_all(ASKED)
        halted = made.owner_of(KEYS[0])
        mine = [index for index, key in enumerate(KEYS) if made.owner_of(key) is halted]
        made.stop(halted)
        try:
            began_ms = monotonic_ms()
            read = rig.read(ASKED)
            assert monotonic_ms() - began_ms < rig.redis.read_timeout_ms
            (hold,) = read.holds
            assert list(hold.indexes) == mine
            assert hold.job is not None
            assert hold.job.found() == ()
            assert read.found == len(KEYS) - len(mine)
            again = rig.read(ASKED)
            assert [list(one.indexes) for one in again.holds] == [mine]
            assert again.holds[0].job is None
        finally:
            made.cont(halted)
        rig.until(lambda: rig.freed, "it answers what it was asked")
        late = hold.job.found()
        assert bodies(late) == [EXPECTED[index] for index in mine]
        assert all(value.version > settled[index].version for index, value in zip(mine, late, strict=True))
        after = rig.read(ASKED)
        assert after.is_whole()
        assert rig.failures == 0


def test_a_node_that_stays_silent_is_connected_to_again(made: Cluster, client: Any) -> None:
    """A black hole is given up after the read timeout; as soon as it answers again its keys are read."""
    with ReadRig(made, read_timeout_ms=300).connected() as rig:
        halted = made.owner_of(KEYS[0])
        made.stop(halted)
        try:
            hold = rig.read(ASKED).holds[0]
            rig.until(lambda: rig.failures >= 2, "it is given up, and cannot be connected to")
            assert hold.job is not None
            assert hold.job.found() == []
            assert f"127.0.0.1:{halted.port} can't be read" in rig.changed
        finally:
            made.cont(halted)
        assert bodies(rig.read_all(ASKED)) == EXPECTED
    made.wait_until_ok()


# Nodes that go for good


@pytest.mark.parametrize("server", SERVERS)
def test_after_a_failover_keys_are_read_at_the_new_primary(server: str) -> None:
    """While their node is gone its keys wait; the new topology has them read, with versions that are higher."""
    with cluster(server, replicas=1) as made, ReadRig(made).connected() as rig:
        fill(made)
        before = rig.read_all(ASKED)
        gone = made.owner_of(KEYS[0])
        mine = [index for index, key in enumerate(KEYS) if made.owner_of(key) is gone]
        made.failover(gone, "kill")
        made.wait_until_ok()
        read = rig.read(ASKED)
        assert [list(hold.indexes) for hold in read.holds] == [mine]
        assert read.found == len(KEYS) - len(mine)
        rig.until(lambda: rig.changed, "it is reported")
        rig.fetcher.set_topology(topology_of(made))
        after = rig.read_all(ASKED)
        assert bodies(after) == EXPECTED
        assert all(now.version > then.version for now, then in zip(after, before, strict=True))
        assert gone.address not in {str(reader.address) for reader in rig.fetcher.readers.all()}


def fill(made: Cluster) -> Any:
    """Write all keys, and return when the replicas have them."""
    client = made.client()
    for number, key in enumerate(KEYS):
        client.hset(key, "n", number)
    for primary in made.primaries():
        for replica in made.replicas_of(primary):
            wait_until(lambda primary=primary, replica=replica: level(primary, replica), "the replica has all")
    return client


def level(primary: Node, replica: Node) -> bool:
    return bool(primary.call("DBSIZE") == replica.call("DBSIZE"))


@pytest.mark.parametrize("how", ["CLUSTER FAILOVER", "CLUSTER FAILOVER TAKEOVER"])
def test_a_demoted_primary_sends_its_keys_on(how: Any) -> None:
    """A primary that is a replica now answers MOVED: nothing stale is read from it, though nobody has told us yet."""
    with cluster(replicas=1) as made, ReadRig(made).connected() as rig:
        client = fill(made)
        before = rig.read_all(ASKED)
        made.failover(made.owner_of(KEYS[0]), how)
        made.wait_until_ok()
        client.hset(KEYS[0], "n", "new")
        after = rig.read_all(ASKED)
        assert bodies(after) == ['{"n":"new"}', *EXPECTED[1:]]
        assert all(now.version > then.version for now, then in zip(after, before, strict=True))
        assert "slots have moved" in rig.changed


def test_keys_wait_while_the_cluster_is_down() -> None:
    """Without full coverage the other nodes refuse: no key is given up on, and all are read once it is whole again."""
    with cluster(config={"appendonly": "yes", "appendfsync": "always"}) as made, ReadRig(made).connected() as rig:
        fill(made)
        assert bodies(rig.read_all(ASKED)) == EXPECTED
        gone = made.owner_of(KEYS[0])
        other = next(node for node in made.nodes if node is not gone)
        made.kill(gone)
        rig.until(lambda: other.info()["cluster_state"] == "fail", "the cluster is down")
        rig.until(lambda: rig.read(ASKED).found == 0, "nobody gives any")
        read = rig.read(ASKED)
        assert sorted(index for hold in read.holds for index in hold.indexes) == list(range(len(ASKED)))
        assert {hold.reader is None for hold in read.holds} == {True, False}
        made.restart(gone)
        assert bodies(rig.read_all(ASKED)) == EXPECTED


def test_a_replica_is_read_in_its_primarys_place() -> None:
    """It is asked for read-only queries; its versions are ordered as its primary's are."""
    with cluster(replicas=1) as made:
        fill(made)
        reads_at = {node.id: made.replicas_of(node)[0].address for node in made.primaries()}
        topology = topology_of(made, **reads_at)
        with ReadRig(made, topology).connected() as rig, ReadRig(made).connected() as other:
            before = other.read_all(ASKED)
            primaries = calls(made, "hgetall")
            read = rig.read(ASKED)
            assert bodies([value for value in read.values if value is not None]) == EXPECTED
            assert calls(made, "hgetall") == primaries
            assert rig.changed == []
            assert {str(reader.address) for reader in rig.fetcher.readers.all()} == set(reads_at.values())
            after = other.read_all(ASKED)
            for then, value, now in zip(before, read.values, after, strict=True):
                assert value is not None
                assert then.version < value.version < now.version


def test_a_user_who_may_not_ask_for_the_epoch_is_told_so() -> None:
    """Without CLUSTER INFO there are no versions: that is refused with its remedy."""
    users = ["reader on >pw ~* resetchannels -@all +@read +@connection +time +asking"]
    with cluster(primaries=1, users=users) as made:
        settings = RedisSettings(url=f"redis://{made.primaries()[0].address}", username="reader", password="pw")
        fetcher = Fetcher(settings, 0, "test", topology=topology_of(made))
        with pytest.raises(RedisRefused, match=r"\+cluster\|info"):
            fetcher.fetch(ASKED)


def test_versions_of_each_node_outlive_their_invoker(made: Cluster, client: Any) -> None:
    """A node's versions are above its own floor, though its clock says less; other nodes' are their clocks'."""
    topology = topology_of(made)
    far = topology.nodes[0].id
    floor_us = (monotonic_ms() + 4_000_000_000_000) * 1_000
    given: dict[int, int] = {}
    with ReadRig(made, floors={far: floor_us}, given=given.__setitem__).connected() as rig:
        values = rig.read_all(ASKED)
        assert [value.version > floor_us for value in values] == [made.owner_of(key).id == far for key in KEYS]
        assert given.keys() == {node.number for node in topology.nodes}
        assert given[topology.nodes[0].number] == max(value.version for value in values)
