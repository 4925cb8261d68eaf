"""Who hears what, case by case; `tests/property/test_assignment.py` has what is true of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from engine.config import RedisSettings, Settings
from engine.routing.assignment import Feeds, assign, is_by_bytes, shards_needed, takes_whole_nodes
from engine.routing.nodes import ALL_SLOTS, SLOTS, Node, Topology, slots_in
from engine.routing.slices import ALL_BYTES, WHOLE, Slice


def cluster(ids: Sequence[str]) -> Topology:
    """Return a cluster whose slots are dealt out evenly."""
    bounds = [SLOTS * number // len(ids) for number in range(len(ids) + 1)]
    nodes = [
        Node(number, id, f"h:{number}", ((bounds[number], bounds[number + 1] - 1),)) for number, id in enumerate(ids)
    ]
    return Topology(tuple(nodes), is_cluster=True)


def place_of(feeds: Feeds) -> dict[tuple[str, bytes], int]:
    return {(feed.node.id, feed.last_bytes): shard for shard, of_shard in enumerate(feeds) for feed in of_shard}


def test_hosts_take_nodes_where_there_are_enough() -> None:
    """Hosts divide nodes as soon as each can have one, unless all have to hear of mapping hashes."""
    three = cluster(["a", "b", "c"])
    assert takes_whole_nodes(three, Slice(0, 3))
    assert not takes_whole_nodes(three, Slice(0, 4))
    assert not takes_whole_nodes(three, Slice(0, 3), by_bytes=True)
    assert takes_whole_nodes(Topology(), Slice(0, 1), by_bytes=True)


def test_a_key_stays_with_its_host_where_scans_find_changes() -> None:
    """Whoever scans keeps the names of its own keys: slots that move must not move a key to another host."""
    settings = Settings(redis=RedisSettings(url="redis://127.0.0.1"))
    scans = replace(settings, capture=replace(settings.capture, source="scan"))
    assert (is_by_bytes(settings), is_by_bytes(scans)) == (False, True)
    assert is_by_bytes(replace(settings, original=replace(settings.original, mapping_prefix="map:")))
    nodes = ["a", "b", "c", "d"]
    hosts = [assign(cluster(nodes), 2, Slice(index, 2), may_cut=False, by_bytes=True) for index in range(2)]
    for index, feeds in enumerate(hosts):
        assert sorted(feed.node.id for of_shard in feeds for feed in of_shard) == nodes
        assert {feed.last_bytes for of_shard in feeds for feed in of_shard} == {Slice(index, 2).last_bytes}


def test_heavy_nodes_are_cut() -> None:
    """With fewer nodes than shards the heavy ones get the others."""
    feeds = assign(cluster(["a", "b", "c"]), 6, weights={"a": 4_000, "b": 1_000, "c": 1_000})
    counts = Counter(feed.node.id for (feed,) in feeds)
    assert counts == {"a": 4, "b": 1, "c": 1}
    assert b"".join(sorted(feed.last_bytes for (feed,) in feeds if feed.node.id == "a")) == ALL_BYTES


def test_a_node_that_gains_slots_keeps_its_feeds() -> None:
    """Slots that move change what a feed's node has, and not where it is."""
    topology = cluster(["a", "b", "c"])
    moved = Topology(
        (
            Node(0, "a", "h:0", ((100, 5460),)),
            Node(1, "b", "h:1", ((0, 99), *topology.nodes[1].slots)),
            topology.nodes[2],
        )
    )
    for shards in (2, 3, 5):
        before = assign(topology, shards)
        after = assign(moved, shards, before=before)
        assert place_of(after) == place_of(before)
        assert {feed.node for of_shard in after for feed in of_shard} == set(moved.nodes)
        assert sum(1 for node in moved.nodes for _ in slots_in(node.slots)) == sum(1 for _ in slots_in(ALL_SLOTS))


def test_a_new_sample_is_no_reason_to_cut_anew() -> None:
    """Keys that end otherwise now leave a node cut as it is: each new cut costs connections and scans."""
    letters, digits = [b"k:%c" % byte for byte in b"abcdef"], [b"k:%d" % digit for digit in range(10)]
    before = assign(cluster(["a"]), 3, samples={"a": letters})
    assert assign(cluster(["a"]), 3, samples={"a": digits}) != before
    assert assign(cluster(["a"]), 3, samples={"a": digits}, before=before) == before


@pytest.mark.parametrize(
    ("nodes", "part", "cores", "shards"),
    [
        (3, WHOLE, 16, 6),
        (3, WHOLE, 4, 4),
        (3, WHOLE, 2, 2),
        (100, WHOLE, 96, 64),
        (4, Slice(1, 2), 16, 4),
        (1, WHOLE, 8, 2),
    ],
)
def test_shards_are_as_many_as_nodes_may_need(nodes: int, part: Slice, cores: int, shards: int) -> None:
    """Left to the engine there is a process a node and as many that wait for the cluster to grow, up to one a core."""
    assert shards_needed(cluster([f"n{number}" for number in range(nodes)]), part, cores) == shards


def test_one_server_takes_one_shard() -> None:
    """A server without cluster mode does not grow, and one process keeps up with it."""
    assert shards_needed(Topology(), WHOLE, 16) == 1
