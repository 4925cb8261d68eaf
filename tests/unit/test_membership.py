from __future__ import annotations

import itertools

from engine.capture.watch.membership import AGAIN_MS_MAX, AGAIN_MS_MIN, Membership, read_figures
from engine.capture.watch.sight import Replication, Sight
from engine.routing.nodes import Node

NODE = Node(1, "id", "10.0.0.1:6379", epoch=3)


def look(role: bytes = b"master", **figures: str) -> Sight:
    return Sight(
        1, replication=Replication(role), cluster={name.encode(): text.encode() for name, text in figures.items()}
    )


def test_figures_of_a_cluster() -> None:
    """What matters is read, whatever else there is; a refusal says nothing."""
    assert read_figures(b"cluster_enabled:1\r\ncluster_state:ok\r\ncluster_my_epoch:3\r\n") == {
        b"cluster_state": b"ok",
        b"cluster_my_epoch": b"3",
    }
    assert read_figures(RuntimeError("NOPERM")) == {}


def test_a_figure_that_changes_is_told_once() -> None:
    """The nodes are to be asked when a figure is another, and not when one is told for the first time."""
    membership = Membership(NODE)
    first, second = look(cluster_known_nodes="3"), look(cluster_known_nodes="4")
    assert membership.take(look(), first, 0) == ""
    assert membership.take(first, second, 1) == "cluster_known_nodes is 4"
    assert membership.take(second, second, 2) == ""


def test_what_lasts_is_told_ever_more_seldom() -> None:
    """An epoch that is not that of the topology in force is told again, until a topology has it."""
    membership, sight = Membership(NODE), look(cluster_my_epoch="4")
    told = [ms for ms in range(0, 200_000, 100) if membership.take(sight, sight, ms)]
    waits = [later - earlier for earlier, later in itertools.pairwise(told)]
    assert waits[:3] == [1_000, 2_000, 4_000]
    assert max(waits) == AGAIN_MS_MAX
    membership.follow(Node(1, "id", "10.0.0.1:6379", epoch=4))
    assert not any(membership.take(sight, sight, ms) for ms in range(200_000, 400_000, 100))


def test_a_role_that_is_not_expected() -> None:
    """A primary has to be one, and a replica that is read in its place a replica; who is named by a URL may be both."""
    for node, right, wrong in (
        (NODE, b"master", b"slave"),
        (Node(1, "id", "10.0.0.1:6379", reads_at="10.0.0.2:6379"), b"slave", b"master"),
    ):
        membership = Membership(node)
        assert membership.take(look(right), look(right), 0) == ""
        assert not membership.is_misplaced
        assert "now" in membership.take(look(right), look(wrong), 1)
        assert membership.is_misplaced
        membership.take(look(wrong), look(b""), 2)
        assert not membership.is_misplaced
    named = Membership(Node())
    named.take(look(b"master"), look(b"slave"), 0)
    assert not named.is_misplaced


def test_a_name_may_lead_elsewhere() -> None:
    """A primary that ``redis.url`` alone led to, and that is a replica now, may have given its name to another."""
    primary, replica = look(b"master"), look(b"slave")
    named = Membership(Node())
    assert named.has_resigned(primary, replica)
    assert not named.has_resigned(replica, replica)
    assert not named.has_resigned(replica, primary)
    assert not named.has_resigned(look(b""), replica)
    assert not Membership(Node(address="a:1")).has_resigned(primary, replica)


def test_a_replica_without_its_primary() -> None:
    """A replica that lost its primary has the nodes asked for, again and again until it is back."""
    read = Membership(Node(reads_at="a:1"))
    well, alone = look(b"slave"), Sight(1, replication=Replication(b"slave", is_up=False))
    assert read.take(well, well, 0) == ""
    assert read.take(well, alone, 1) == "it has lost its primary"
    assert read.take(alone, alone, 2) == ""
    assert read.take(alone, alone, 1 + AGAIN_MS_MIN) == "it has lost its primary"
    assert read.take(alone, well, 2 + AGAIN_MS_MIN) == ""
    assert Membership(Node()).take(well, alone, 0) == ""
