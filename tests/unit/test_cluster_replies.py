"""What nodes of clusters say, as servers of all ages and services write it."""

from __future__ import annotations

import pytest

from engine.config import RedisSettings
from engine.errors import RedisError, RedisUnreachable
from engine.redis import topology
from engine.redis.cluster_replies import addresses_in, facts_in, nodes_in
from engine.redis.topology import Found, ask_topology
from engine.routing.nodes import ALL_SLOTS, Node, Topology

A, B, C, D = ("a" * 40, "b" * 40, "c" * 40, "d" * 40)


def line(id: str, place: str, flags: str = "master", primary: str = "-", epoch: int = 1, *slots: str) -> str:
    return " ".join([id, place, flags, primary, "0", "1795978860693", str(epoch), "connected", *slots])


def test_a_line_is_taken_apart() -> None:
    """Slots come alone and in ranges; those on their way are not counted; what stands after the name is left."""
    (node,) = nodes_in(
        line(A, "10.0.0.1:6379@16379,cache-1,shard-id=x", "master", "-", 7, "5", "10-20", f"[21->-{B}]").encode()
    )
    assert (node.id, node.ip, node.port, node.name, node.epoch) == (A, "10.0.0.1", 6379, "cache-1", 7)
    assert node.slots == ((5, 5), (10, 20))


def test_addresses_of_every_kind() -> None:
    """A node's address may be IPv6, unknown to itself, without a bus port, or followed by what we don't know."""
    lines = [
        line(A, "fe80::1:6379@16379"),
        line(B, ":6379@16379", "myself,master"),
        line(C, "10.0.0.3:6379"),
        line(D, "10.0.0.4:6379@16379,,shard-id=x"),
    ]
    nodes = nodes_in("\n".join(lines).encode())
    assert [(node.ip, node.port, node.name) for node in nodes] == [
        ("fe80::1", 6379, ""),
        ("", 6379, ""),
        ("10.0.0.3", 6379, ""),
        ("10.0.0.4", 6379, ""),
    ]


@pytest.mark.parametrize(
    ("flags", "slots", "is_primary", "is_replica"),
    [
        ("master", "1-2", True, False),
        ("master", "", True, False),
        ("myself,master", "", True, False),
        ("master,fail", "1-2", True, False),
        ("master,fail", "", False, False),
        ("master,fail?", "", True, False),
        ("master,noaddr", "", False, False),
        ("handshake", "", False, False),
        ("slave", "", False, True),
        ("slave,fail", "", False, False),
        ("slave,fail?", "", False, False),
    ],
)  # fmt: skip
def test_who_counts(flags: str, slots: str, is_primary: bool, is_replica: bool) -> None:
    """A primary counts with slots or without, and dead only as long as it has some; a replica only while it is well."""
    (node,) = nodes_in(line(A, "h:1@2", flags, "-", 1, *filter(None, [slots])).encode())
    assert (node.is_primary, node.is_replica) == (is_primary, is_replica)


def test_where_clients_are_sent() -> None:
    """A null, or nothing, is the host that was asked; a name that is not known is no address."""
    reply = [
        [0, 5, [b"cache-1", 6379, A.encode(), [b"ip", b"10.0.0.1"]], [None, 6380, B.encode(), []]],
        [6, 9, [b"?", 6379, C.encode(), [b"ip", b"10.0.0.3"]], [b"", 7, D.encode()]],
    ]
    assert addresses_in(reply, "seed") == {A: ("cache-1", 6379), B: ("seed", 6380), D: ("seed", 7)}


def test_info_is_read() -> None:
    """``CLUSTER INFO`` is lines of names and values."""
    assert facts_in(b"cluster_state:ok\r\ncluster_current_epoch:9\r\n\r\n")["cluster_current_epoch"] == "9"


def found(*nodes: Node, epoch: int = 1, is_up: bool = True, failed: tuple[str, ...] = ()) -> Found:
    return Found(Topology(nodes, is_cluster=True), epoch=epoch, is_up=is_up, failed=failed, asked="seed:6379")


WHOLE = Node(id=A, address="h:1")


def test_a_start_waits_for_a_whole_cluster() -> None:
    """Slots without an owner are named, and so are nodes that are dead while the cluster is down."""
    assert found(WHOLE).fault() is None
    fault = found(Node(id=A, slots=((0, 99), (101, 200), (300, 16_383)))).fault()
    assert fault is not None
    assert "no node has slots 100, 201-299" in fault.message
    fault = found(WHOLE, is_up=False, failed=(A,)).fault()
    assert fault is not None
    assert "is down (cluster_state:fail): h:1 (aaaaaaaa) failed" in fault.message


class Views:
    """Nodes with different views, by their URLs."""

    def __init__(self, **by_host: Found | RedisError) -> None:
        self.by_host = by_host
        self.asked: list[str] = []

    def ask(self, redis: RedisSettings) -> Found:
        host = redis.url.removeprefix("redis://").partition(":")[0]
        self.asked.append(host)
        view = self.by_host[host]
        if isinstance(view, RedisError):
            raise view
        return view


@pytest.fixture
def redis() -> RedisSettings:
    return RedisSettings(url="redis://seed:1")


def test_another_node_is_asked_where_the_first_does_not_answer(
    redis: RedisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers knows all; the error is that of the configured address where nobody does."""
    views = Views(seed=RedisUnreachable("no seed"), two=found(WHOLE), three=RedisUnreachable("no three"))
    monkeypatch.setattr(topology, "_ask", views.ask)
    assert ask_topology(redis, ["three:1", "two:1"]).topology.nodes == (WHOLE,)
    assert views.asked == ["seed", "three", "two"]
    with pytest.raises(RedisUnreachable, match="no seed"):
        ask_topology(redis, ["three:1"])


def test_who_was_left_behind_is_not_believed(redis: RedisSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that knows of older epochs than we do, or that is cut off, is believed only where nobody knows better."""
    old, new = found(WHOLE, epoch=3), found(Node(id=B, address="h:2"), epoch=4)
    views = Views(seed=old, two=new)
    monkeypatch.setattr(topology, "_ask", views.ask)
    assert ask_topology(redis, ["two:1"], epoch_least=3) is old
    assert ask_topology(redis, ["two:1"], epoch_least=4) is new
    assert ask_topology(redis, (), epoch_least=4) is old
    cut_off = found(WHOLE, epoch=4, is_up=False)
    views.by_host["seed"] = cut_off
    assert ask_topology(redis, ["two:1"], epoch_least=4) is new
    assert ask_topology(redis, (), epoch_least=4) is cut_off


def test_a_node_with_all_slots_has_all() -> None:
    """A cluster of one node has every key on it."""
    assert WHOLE.slots == ALL_SLOTS
