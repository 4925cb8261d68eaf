from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.routing.assignment import PATIENCE, Feeds, assign, nodes_of_slice
from engine.routing.byte_classes import channel_prefix
from engine.routing.databases import Databases
from engine.routing.nodes import SLOTS, Node, Topology, as_ranges
from engine.routing.slices import SLICES_MAX, Slice, shards_max
from tests.shard_plan import plan_shards

EMPTY_KEY = -1
ENDINGS = (EMPTY_KEY, *range(256))

samples = st.lists(st.from_regex(rb"\Acart:[0-9]{1,3}\Z") | st.binary(max_size=3), max_size=20)


def cluster(ids: Sequence[str], *, empty: int = 0) -> Topology:
    """Return a cluster whose slots are dealt out evenly, but to the last nodes, which have none."""
    count = max(1, len(ids) - empty)
    bounds = [SLOTS * number // count for number in range(count + 1)]
    slots = [((low, high - 1),) for low, high in pairwise(bounds)] + [()] * len(ids)
    nodes = [Node(number, id, f"h:{number}", slots[number]) for number, id in enumerate(ids)]
    return Topology(tuple(nodes), is_cluster=True)


@st.composite
def topologies(draw: st.DrawFn, least: int = 1, most: int = 12) -> Topology:
    """Draw a cluster: nodes with slots from here and there, and perhaps some without any."""
    ids = draw(
        st.lists(st.text("0123456789abcdef", min_size=4, max_size=8), min_size=least, max_size=most, unique=True)
    )
    pieces = draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=20))
    owned: dict[int, set[int]] = {}
    for number, owner in enumerate(pieces):
        owned.setdefault(owner, set()).update(range(SLOTS * number // len(pieces), SLOTS * (number + 1) // len(pieces)))
    nodes = [Node(number, id, slots=as_ranges(owned.get(number, ()))) for number, id in enumerate(ids)]
    return Topology(tuple(draw(st.permutations(nodes))), is_cluster=True)


@st.composite
def weights_of(draw: st.DrawFn, topology: Topology) -> dict[str, float]:
    return {node.id: draw(st.integers(0, 1_000_000)) for node in topology.nodes if draw(st.booleans())}


def owners(assignments: Sequence[Feeds]) -> Counter[tuple[str, int]]:
    """Return how many feeds have each node's keys, by what they end in."""
    found: Counter[tuple[str, int]] = Counter()
    for feeds in assignments:
        for feed in (feed for of_shard in feeds for feed in of_shard):
            found.update((feed.node.id, ending) for ending in feed.last_bytes)
            found[feed.node.id, EMPTY_KEY] += feed.takes_empty_key
    return +found


def place_of(feeds: Feeds) -> dict[tuple[str, bytes], int]:
    return {(feed.node.id, feed.last_bytes): shard for shard, of_shard in enumerate(feeds) for feed in of_shard}


@settings(deadline=None, max_examples=40)
@given(topologies(), st.integers(1, SLICES_MAX), st.booleans(), st.data())
def test_every_key_is_in_one_feed(topology: Topology, count: int, has_mappings: bool, data: st.DataObject) -> None:
    """Over all hosts and their shards, each key of each node is in exactly one feed, whatever a host has measured."""
    found = []
    for index in range(count):
        feeds = assign(
            topology,
            data.draw(st.integers(1, min(8, shards_max(count)))),
            Slice(index, count),
            weights=data.draw(weights_of(topology)),
            samples={node.id: data.draw(samples) for node in topology.nodes[:2]},
            mapping_prefix=b"map:" if has_mappings else b"",
            may_cut=data.draw(st.booleans()),
        )
        found.append(feeds)
    assert owners(found) == Counter({(node.id, ending): 1 for node in topology.nodes for ending in ENDINGS})


@settings(deadline=None, max_examples=40)
@given(topologies(), st.integers(1, 16), st.data())
def test_patterns_are_as_few_as_can_be(topology: Topology, shards: int, data: st.DataObject) -> None:
    """With as many nodes as shards, or more, and where nodes may not be cut, each node has the one cheapest pattern;
    with fewer nodes each shard has one feed.
    """
    may_cut = data.draw(st.booleans())
    feeds = assign(topology, shards, weights=data.draw(weights_of(topology)), may_cut=may_cut)
    flat = [feed for of_shard in feeds for feed in of_shard]
    if len(topology.nodes) >= shards or not may_cut:
        assert [feed.patterns for feed in flat] == [(channel_prefix(0) + b"*",)] * len(topology.nodes)
    else:
        assert [len(of_shard) for of_shard in feeds] == [1] * shards


@settings(deadline=None, max_examples=40)
@given(topologies(), st.integers(1, 16), st.data())
def test_the_assignment_is_deterministic_and_comes_to_rest(
    topology: Topology, shards: int, data: st.DataObject
) -> None:
    """The order of the nodes changes nothing, and what is in force stays when nothing has changed."""
    weights = data.draw(weights_of(topology))
    feeds = assign(topology, shards, weights=weights)
    turned = Topology(tuple(reversed(topology.nodes)), is_cluster=True)
    assert assign(turned, shards, weights=weights) == feeds
    other = data.draw(topologies())
    for before in (feeds, assign(other, shards)):
        first = assign(topology, shards, weights=weights, before=before)
        assert assign(topology, shards, weights=weights, before=first) == first


@settings(deadline=None, max_examples=40)
@given(topologies(), topologies(), st.integers(1, 8), st.data())
def test_loads_are_bounded(topology: Topology, other: Topology, shards: int, data: st.DataObject) -> None:
    """Whatever was in force before, the busiest shard bears little more than it would in a fresh assignment; that is at
    most the average and one node.
    """
    weights = {node.id: float(data.draw(st.integers(1, 1_000))) for node in topology.nodes}
    if len(topology.nodes) < shards:
        return

    def busiest(feeds: Feeds) -> float:
        # An assignment counts a little of every node, so that one without keys has a place too.
        least = max(1.0, sum(weights.values()) * 0.05) / len(weights)
        return max(sum(weights[feed.node.id] + least for feed in of_shard) for of_shard in feeds)

    fresh = assign(topology, shards, weights=weights)
    kept = assign(topology, shards, weights=weights, before=assign(other, shards))
    total = sum(weights.values()) * 1.05 + 1
    assert busiest(fresh) <= total / shards + max(weights.values()) + total * 0.05
    assert busiest(kept) <= busiest(fresh) * PATIENCE * (1 + 1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, SLICES_MAX), samples, st.data())
def test_one_node_is_cut_as_ever(count: int, sample: list[bytes], data: st.DataObject) -> None:
    """A server without cluster mode is cut by what its keys end in, slice by slice."""
    part = Slice(data.draw(st.integers(0, count - 1)), count)
    shards = data.draw(st.integers(1, min(64, shards_max(count))))
    plan = plan_shards(shards, 3, sample, part, b"map:")
    feeds = assign(Topology(), shards, part, databases=Databases.one(3), samples={"": sample}, mapping_prefix=b"map:")
    assert [(feed.patterns, feed.last_bytes, feed.takes_empty_key) for (feed,) in feeds] == [
        (shard.patterns, shard.last_bytes, shard.takes_empty_key) for shard in plan
    ]


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 12), st.integers(1, 16), st.data())
def test_a_failover_moves_nothing(count: int, shards: int, data: st.DataObject) -> None:
    """Who takes over a node's slots has its feeds, on the same shards and cut alike."""
    topology = cluster([f"n{number}" for number in range(count)])
    failed = data.draw(st.integers(0, count - 1))
    nodes = [replaced(node, "new") if node.number == failed else node for node in topology.nodes]
    before = place_of(feeds := assign(topology, shards))
    after = place_of(assign(Topology(tuple(nodes)), shards, before=feeds))
    old = f"n{failed}"
    assert after == {("new" if id == old else id, members): shard for (id, members), shard in before.items()}


def replaced(node: Node, id: str) -> Node:
    return Node(node.number, id, "elsewhere:1", node.slots)


@settings(deadline=None, max_examples=40)
@given(st.integers(3, 12), st.integers(1, 3), st.data())
def test_a_node_that_comes_or_goes_moves_few(count: int, shards: int, data: st.DataObject) -> None:
    """A node without slots that joins moves no feed; one that leaves moves at most what evens the others out again."""
    ids = [f"n{number}" for number in range(count)]
    topology = cluster(ids)
    before = place_of(feeds := assign(topology, shards))
    after = place_of(assign(cluster([*ids, "new"], empty=1), shards, before=feeds))
    assert {key: shard for key, shard in after.items() if key[0] != "new"} == before
    gone = data.draw(st.sampled_from(ids))
    left = Topology(tuple(node for node in topology.nodes if node.id != gone))
    if len(left.nodes) >= shards:
        after = place_of(assign(left, shards, before=feeds))
        assert sum(after[key] != before[key] for key in after) <= 1 + count // shards // 2


@settings(deadline=None, max_examples=40)
@given(topologies(1, 20), st.integers(1, SLICES_MAX))
def test_hosts_take_about_as_many_nodes(topology: Topology, count: int) -> None:
    """Each node is of one slice, and no slice has more than one node above any other."""
    slices = [nodes_of_slice(topology, Slice(index, count)) for index in range(count)]
    assert sorted(node.id for nodes in slices for node in nodes) == sorted(node.id for node in topology.nodes)
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


@pytest.mark.parametrize("count", [2, 3, 5])
def test_slices_of_nodes_are_stable(count: int) -> None:
    """A node that joins, leaves or is replaced has few others change hosts."""

    def host_of(ids: Sequence[str]) -> dict[str, int]:
        return {node.id: index for index in range(count) for node in nodes_of_slice(cluster(ids), Slice(index, count))}

    moved = []
    for seed in range(60):
        ids = [f"{seed}:{number}" for number in range(12)]
        before = host_of(ids)
        for ids_after in ([*ids, f"{seed}:new"], ids[1:], [*ids[1:], f"{seed}:new"]):
            after = host_of(ids_after)
            moved.append(sum(after[id] != before[id] for id in after if id in before))
    assert mean(moved) < 3, moved
