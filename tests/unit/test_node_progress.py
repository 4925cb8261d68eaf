"""What is owed of nodes: slots that were gained, feeds that moved, engines of before."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import msgspec
import orjson
import pytest

from engine.clock import monotonic_ms, now_ms
from engine.config import RouteSettings, Settings
from engine.model import EVERY_ROUTE, THE_BEGINNING_MS, Missed, Watermark
from engine.routing.assignment import Feeds
from engine.routing.feeds import Feed
from engine.routing.nodes import ALL_SLOTS, Node, Topology
from engine.routing.routes import RouteTable
from engine.supervision.errands.planner import Plan
from engine.supervision.memory import SharedMemory
from engine.supervision.progress.checkpoint import FORMAT, CheckpointFile, NodeKept
from engine.supervision.progress.clocks import Clocks
from engine.supervision.progress.keeping import Keeper
from engine.supervision.progress.nodes import NodeProgress, Nodes

LOWER, UPPER = ((0, 8_191),), ((8_192, 16_383),)
EVERY_BYTE = bytes(range(256))
KEPT = {"a": NodeKept(40_000, 7, slots=LOWER), "b": NodeKept(900_000, 8, slots=UPPER)}
HEARD_NOTHING = (0, Missed(0))


def cluster(*nodes: Node, version: int = 0) -> Topology:
    return Topology(nodes, True, version)


def whole(node: Node, last_bytes: bytes = EVERY_BYTE) -> Feed:
    return Feed(node, (b"*",), last_bytes, takes_empty_key=True)


A, B = Node(0, "a", "a", LOWER, 1), Node(1, "b", "b", UPPER, 2)
FEEDS: Feeds = ((whole(A),), (whole(B),))


@pytest.fixture
def nodes() -> Nodes:
    """Two nodes, a shard each, resumed."""
    return Nodes(cluster(A, B), FEEDS, KEPT, {"a": 30_000, "b": 899_000}, None)


def by_id(nodes: Nodes) -> dict[str, NodeProgress]:
    return {one.node.id: one for one in nodes.all()}


def tell(nodes: Nodes, *watermarks: Watermark) -> None:
    """Have these be settled in the one ring of whichever shard."""
    said = {watermark.node: watermark for watermark in watermarks}
    nodes.advance(
        lambda shard, node: [said.get(node, Watermark(0, 0, node))],
        lambda shard, node: (0, Missed(1, said[node].server_mark, clock_ms=5) if node in said else Missed(0)),
    )


def test_each_node_is_resumed_by_its_own_watermark(nodes: Nodes) -> None:
    """A shard is handed what its own nodes published since, by their own clocks."""
    assert nodes.missed_at_start(0, 1, ()) == {0: (Missed(40_000, 7, 1, clock_ms=30_000),)}
    assert nodes.missed_at_start(1, 1, ()) == {1: (Missed(900_000, 8, 1, clock_ms=899_000),)}
    assert nodes.host_ms() == 1_000


def test_gained_slots_stand_still_until_they_are_found(nodes: Nodes) -> None:
    """A node that takes over slots owes all of their keys; its watermark and its entry wait for one of that version."""
    grown = msgspec.structs.replace(A, slots=ALL_SLOTS, epoch=1)
    nodes.take_topology(cluster(grown, version=1), ((whole(grown),), ()))
    assert nodes.missed_since(0, 0, ()) == {0: (Missed(40_000, 0, EVERY_ROUTE),)}
    assert nodes.missed_since(0, 1, ()) == {}
    tell(nodes, Watermark(50_000, 7, 0, 0))
    one = by_id(nodes)["a"]
    assert (one.settled.since_ms, len(one.slots), len(one.owed)) == (40_000, 8_192, 8_192)
    tell(nodes, Watermark(50_000, 7, 0, 1))
    assert (one.settled.since_ms, len(one.slots), len(one.owed)) == (50_000, 16_384, 0)


def test_a_node_whose_epoch_rose_may_have_lost_and_regained_slots(nodes: Nodes) -> None:
    """All since its watermark is found again, by idle times where they can be believed."""
    risen = msgspec.structs.replace(A, epoch=3)
    nodes.take_topology(cluster(risen, B, version=1), ((whole(risen),), (whole(B),)))
    assert nodes.missed_since(0, 0, ()) == {0: (Missed(40_000, 7, clock_ms=30_000),)}
    assert nodes.missed_since(1, 0, ()) == {}


def test_a_feed_that_moves_begins_at_the_watermark(nodes: Nodes) -> None:
    """What the old shard heard and has not delivered is found by the new one; whole keyspaces that are due too."""
    everything = Missed(THE_BEGINNING_MS, routes=1)
    nodes.take_topology(cluster(A, B, version=1), ((), (whole(A), whole(B))))
    assert nodes.missed_since(0, 0, (everything,)) == {}
    assert nodes.missed_since(1, 0, (everything,)) == {0: (Missed(40_000, 7, clock_ms=30_000), everything)}


def test_a_successor_finds_what_its_predecessor_had_not(nodes: Nodes) -> None:
    """Where the gained slots were handed and not found yet, they are handed again; what was heard before is not."""
    grown = msgspec.structs.replace(A, slots=ALL_SLOTS, epoch=1)
    heard = Missed(45_000, 7, clock_ms=30_000)
    assert nodes.missed_by_successor(0, lambda shard, node: (0, heard), ()) == {0: (heard,)}
    assert nodes.missed_by_successor(0, lambda shard, node: HEARD_NOTHING, ()) == {
        0: (Missed(40_000, 7, clock_ms=30_000),)
    }
    nodes.take_topology(cluster(grown, version=1), ((whole(grown),), ()))
    gained = Missed(40_000, 0)
    assert nodes.missed_by_successor(0, lambda shard, node: (0, heard), ()) == {0: (heard, gained)}
    assert nodes.missed_by_successor(0, lambda shard, node: (1, heard), ()) == {0: (heard,)}
    # One that heard the node long ago, before the feed was another shard's for a while, has heard nothing of now.
    nodes.take_topology(cluster(grown, version=2), ((), (whole(grown),)))
    nodes.take_topology(cluster(grown, version=3), ((whole(grown),), ()))
    assert nodes.missed_by_successor(0, lambda shard, node: (1, heard), ()) == {
        0: (Missed(40_000, 7, clock_ms=30_000), gained)
    }


def test_a_node_that_went_holds_nothing_up_and_what_it_left_is_as_old_as_it_was(nodes: Nodes) -> None:
    """Its slots are owed by their new owner, which until then is settled no further than the old one was."""
    new = Node(2, "c", "c", UPPER, 9)
    tell(nodes, Watermark(60_000, 7, 0), Watermark(901_000, 8, 1))
    assert by_id(nodes)["b"].host_ms == 901_000 - 5
    nodes.take_topology(cluster(A, new, version=1), ((whole(A),), (whole(new),)))
    assert set(by_id(nodes)) == {"a", "c"}
    assert nodes.missed_since(1, 0, ()) == {2: (Missed(THE_BEGINNING_MS, 0, slots=UPPER),)}
    assert by_id(nodes)["c"].host_ms == 901_000 - 5
    tell(nodes, Watermark(70_000, 7, 0), Watermark(500, 8, 2, 1))
    assert (nodes.host_ms(), by_id(nodes)["c"].owed) == (500 - 5, frozenset())


def test_last_bytes_that_come_to_this_host_are_owed(nodes: Nodes) -> None:
    """What other hosts heard of a node is known to nobody here: not when they hand it over, nor after a restart."""
    half = whole(A, EVERY_BYTE[:128])
    known = Nodes(cluster(A), ((half,),), {}, {}, {"a": 40_000})
    known.take_topology(cluster(A, version=1), ((half,), (whole(A, EVERY_BYTE[128:]),)))
    assert known.missed_since(0, 0, ()) == {0: (Missed(40_000, 0, slots=LOWER),)}
    assert known.missed_since(1, 0, ()) == {0: (Missed(40_000, 0, slots=LOWER),)}
    kept = {"a": NodeKept(40_000, 7, slots=LOWER, endings=((0, 127), (256, 256)))}
    assert Nodes(cluster(A), ((half,),), kept, {}, None).missed_at_start(0, 1, ()) == {0: (Missed(40_000, 7, 1),)}
    wider = Nodes(cluster(A), ((whole(A),),), kept, {}, None)
    assert wider.missed_at_start(0, 1, ()) == {0: (Missed(THE_BEGINNING_MS, 0, 1, slots=LOWER),)}


def test_the_least_of_all_shards_that_hear_a_node_counts() -> None:
    """A node that is cut is settled as far as each of its parts is, in each ring; those of other nodes say nothing."""
    halves: Feeds = ((whole(A, EVERY_BYTE[:128]),), (whole(A, EVERY_BYTE[128:]), whole(B)))
    nodes = Nodes(cluster(A, B), halves, KEPT, {}, None)
    rings = {(0, 0): 50_000, (1, 0): 45_000, (1, 1): 7}
    nodes.advance(lambda shard, node: [Watermark(rings[shard, node], 7, node)], lambda shard, node: (0, Missed(1, 7)))
    assert by_id(nodes)["a"].settled.since_ms == 45_000
    assert by_id(nodes)["b"].settled.since_ms == 7


# The keeper


def keeper(folder: Path, topology: Topology, feeds: Feeds, content: bytes = b"") -> tuple[Keeper, SharedMemory]:
    file = folder / "checkpoint"
    if content:
        file.write_bytes(content)
    settings = msgspec.structs.replace(Settings(), delivery=msgspec.structs.replace(Settings().delivery, invokers=1))
    table = RouteTable.build([RouteSettings(name="carts", function="f")])
    plan = Plan(feeds=feeds, table=table.encode(), topology=topology, scope="redis 1", server_ms=50_000)
    memory = SharedMemory(len(feeds), 1, 1 << 16)
    return Keeper(settings, plan, memory, CheckpointFile(str(file))), memory


def as_file(data: bytes) -> bytes:
    return b"%08x %s\n" % (crc32(data), data)


@pytest.mark.parametrize(("format", "extra"), [(1, {}), (2, {"heard": {}, "fence_after_ms": 1})])
def test_an_engine_before_nodes_is_resumed_from(tmp_path: Path, format: int, extra: dict[str, object]) -> None:
    """The checkpoint of an older version is that of the one node, and what comes of it can be read by that version."""
    clocks = {"boot": "", "monotonic_ms": 0, "wall_ms": 0}
    old = {"scope": "redis 1", "watermark_ms": 40_000, "server_mark": 7, "version": 1_000, "routes": ["carts"]}
    old |= {"is_clean": True, "written_at_ms": 41_000, "format": format, "clocks": clocks, **extra}
    node = Node()
    running, memory = keeper(tmp_path, Topology(), ((whole(node),),), as_file(orjson.dumps(old)))
    child = type("First", (), {"index": 0, "forks": 0})()
    assert running.missed_by(child) == {0: (Missed(40_000, 7, 1),)}  # type: ignore[arg-type]
    memory.rings.ring(0, 0).reader().set_watermark(Watermark(60_000, 7))
    memory.heard.row(0).set(0, 60_000, 7, 50_000)
    running.keep(is_clean=True)
    found, _ = CheckpointFile(str(tmp_path / "checkpoint")).load()
    assert found is not None
    assert (found.format, found.watermark_ms, found.server_mark) == (FORMAT, 60_000, 7)
    kept = found.nodes[""]
    assert (kept.watermark_ms, kept.server_mark, kept.slots) == (60_000, 7, ALL_SLOTS)
    assert found.clocks == kept.clocks != Clocks()


def test_the_status_says_how_far_each_node_is(tmp_path: Path) -> None:
    """By its own clock, and all together by this host's: the node that is furthest behind counts."""
    running, memory = keeper(tmp_path, cluster(A, B), FEEDS)
    for shard, (moment_ms, clock_ms) in enumerate([(70_000, 10_000), (900_000, 850_000)]):
        memory.rings.ring(shard, 0).reader().set_watermark(Watermark(moment_ms, 7, shard))
        memory.heard.row(shard).set(shard, moment_ms + 5, 7, clock_ms)
    running.keep(is_clean=False)
    status = running.standing()
    nodes = {node["id"]: node for node in status["nodes"]}
    assert {id: node["settled_until_ms"] for id, node in nodes.items()} == {"a": 70_000, "b": 900_000}
    assert {id: node["heard_until_ms"] for id, node in nodes.items()} == {"a": 70_005, "b": 900_005}
    # Host time: a is at 60,000 ms of the monotonic clock, b at 50,000.
    assert nodes["b"]["settled_age_ms"] >= nodes["a"]["settled_age_ms"]
    assert abs(status["settled_until_ms"] - (50_000 + now_ms() - monotonic_ms())) < 5_000
    assert nodes["a"]["server_mark"] == 7 and nodes["a"]["slots_owed"] == 0


def test_the_status_says_how_far_each_feed_is(tmp_path: Path) -> None:
    """A node whose keys two shards share has an age for each: the one that lags, and one that says nothing yet."""
    halves = ((whole(A, EVERY_BYTE[:128]),), (whole(A, EVERY_BYTE[128:]),))
    running, memory = keeper(tmp_path, cluster(A), halves)
    ahead_ms = 10**12
    moment_ms = ahead_ms + monotonic_ms() - 9_000
    memory.rings.ring(0, 0).reader().set_watermark(Watermark(moment_ms, 7, 0))
    memory.heard.row(0).set(0, moment_ms, 7, ahead_ms)
    (node,) = running.standing()["nodes"]
    first, second = node["feeds"]
    assert (first["shard"], first["keys"], second["shard"], second["keys"]) == (0, "\\x00-\\x7f", 1, "\\x80-\\xff")
    assert 9_000 <= first["settled_age_ms"] < 60_000
    assert (node["settled_age_ms"], second["settled_age_ms"]) == (None, None)


def test_a_shard_without_feeds_misses_nothing(tmp_path: Path) -> None:
    """It is handed nothing, and holds nothing up."""
    running, _ = keeper(tmp_path, cluster(A), ((whole(A),), ()))
    child = type("Second", (), {"index": 1, "forks": 0})()
    assert running.missed_by(child) == running.heard_by(child) == {}  # type: ignore[arg-type]
