"""A subscriber with several feeds, or none: two servers stand for two nodes."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import psutil
import pytest
import redis

from engine.config import CaptureSettings, RedisSettings, RingSettings
from engine.lifecycle import Compared, CompareWanted, Drain, SetFeeds, TopologyChanged, TopologyInForce
from engine.model import Missed
from engine.ring.counters import ChildState, Counter
from engine.routing.events import REPAIR
from engine.routing.feeds import Feed
from engine.routing.nodes import ALL_SLOTS, SLOTS, Node, slot_of
from engine.sandbox.valkey import ValkeyServer
from tests.capture_rig import Taken, feed_of, route, subscriber, wait_for
from tests.shard_plan import plan_shards

FLAGS = {"notify-keyspace-events": "KA"}
SMALL_RING = RingSettings(ring_bytes=65_536, frame_bytes_max=8_192)
LOWER, UPPER = ((0, SLOTS // 2 - 1),), ((SLOTS // 2, SLOTS - 1),)


@pytest.fixture
def servers() -> Iterator[tuple[ValkeyServer, ValkeyServer]]:
    with ValkeyServer(config=FLAGS) as one, ValkeyServer(config=FLAGS) as other:
        yield one, other


def feed(number: int, server: ValkeyServer, slots: tuple[tuple[int, int], ...] = ALL_SLOTS) -> Feed:
    """Return a whole server as a node of this number."""
    node = Node(number, address=f"127.0.0.1:{server.port}", slots=slots)
    return feed_of(plan_shards(1, 0, ())[0], node)


def client_of(server: ValkeyServer) -> Any:
    return redis.Redis(port=server.port)


def keys_of(taken: Taken) -> set[bytes]:
    return {change.key for _, _, change in taken}


def is_listened_to(server: ValkeyServer) -> bool:
    return any(client["name"] == "engine-subscriber-1" for client in client_of(server).client_list())


def test_two_feeds_in_one_subscriber(servers: tuple[ValkeyServer, ValkeyServer]) -> None:
    """What changes on either node arrives, and each node has a watermark by its own clock."""
    with subscriber(feed(0, servers[0]), feed(7, servers[1])) as running:
        for number, server in enumerate(servers):
            client_of(server).hset(f"of {number}", "f", "v")
        assert keys_of(running.take_until(lambda taken: len(taken) >= 2)) == {b"of 0", b"of 1"}
        running.wait_past(0, client_of(servers[0]))
        running.wait_past(7, client_of(servers[1]))
        assert running.count(Counter.GAPS) == 0


def test_a_node_that_is_down_holds_up_its_own_watermark_alone(servers: tuple[ValkeyServer, ValkeyServer]) -> None:
    """The other's keys and watermark go on; the nodes are asked for; its own gap is found once it is back."""
    one, other = servers
    with subscriber(feed(0, one), feed(1, other)) as running:
        running.wait_past(0, client_of(one))
        one.kill()
        wait_for(lambda: running.count(Counter.GAPS) == 1, "the loss is noticed")
        assert isinstance(running.wait_told(TopologyChanged), TopologyChanged)
        stands = running.heard_until(node=0).since_ms
        for _ in range(3):
            client_of(other).hset("other", "f", "v")
            assert b"other" in keys_of(running.take_until(bool))
            running.wait_past(1, client_of(other))
        assert running.heard_until(node=0).since_ms == stands
        assert running.board.row(0).state is ChildState.READY
        one.start()
        wait_for(lambda: running.count(Counter.RECONNECTS) == 1, "it is listened to again")
        running.wait_past(0, client_of(one))
        assert running.count(Counter.GAPS) == running.count(Counter.REPAIRS) == 1


def test_a_busy_node_keeps_no_other_waiting(servers: tuple[ValkeyServer, ValkeyServer]) -> None:
    """While one node says more than a turn reads, the other's keys arrive, and both watermarks move."""
    one, other = servers
    is_over = threading.Event()

    def load() -> None:
        client = client_of(one)
        while not is_over.is_set():
            pipe = client.pipeline(transaction=False)
            for number in range(500):
                pipe.hset(f"busy:{number}", "f", "v")
            pipe.execute()

    thread = threading.Thread(target=load)
    # So small a read is always full: the feed has more, turn after turn.
    with subscriber(feed(0, one), feed(1, other), settings=CaptureSettings(read_bytes_max=4_096)) as running:
        thread.start()
        try:
            wait_for(lambda: running.count(Counter.EVENTS_READ) > 1_000, "the load runs")
            client_of(other).hset("other", "f", "v")
            running.take_until(lambda taken: b"other" in keys_of(taken))
            running.wait_past(1, client_of(other))
            running.wait_past(0, client_of(one))
        finally:
            is_over.set()
            thread.join()
        assert running.count(Counter.GAPS) == 0


def test_feeds_come_and_go(servers: tuple[ValkeyServer, ValkeyServer]) -> None:
    """A feed that is added is heard with what it missed; one that is dropped is heard no more, and its watermark stands
    still.
    """
    one, other = servers
    client_of(other).hset("was there", "f", "v")
    with subscriber(feed(0, one)) as running:
        running.wait_past(0, client_of(one))
        running.send(SetFeeds(2, (feed(0, one), feed(1, other)), {1: (Missed(1_000),)}))
        running.wait_told(TopologyInForce(2))
        assert keys_of(running.take_until(bool)) == {b"was there"}
        client_of(other).hset("live", "f", "v")
        assert b"live" in keys_of(running.take_until(bool))
        running.wait_past(1, client_of(other))
        assert running.count(Counter.RECONNECTS) == 0
        running.send(SetFeeds(3, (feed(1, other),)))
        running.wait_told(TopologyInForce(3))
        wait_for(lambda: not is_listened_to(one), "the connection is closed")
        stands = running.heard_until(node=0).since_ms
        client_of(one).hset("unheard", "f", "v")
        running.wait_past(1, client_of(other))
        assert running.heard_until(node=0).since_ms == stands
        assert running.heard_table.row(0).version(1) == 3
        assert running.take() == []


def test_a_node_that_is_down_at_the_start(servers: tuple[ValkeyServer, ValkeyServer]) -> None:
    """The others are captured meanwhile; it is ready once all are listened to, or those that are not were dropped."""
    one, other = servers
    one.kill()
    with subscriber(feed(0, one), feed(1, other), is_ready=False) as running:
        running.wait_past(1, client_of(other))
        client_of(other).hset("live", "f", "v")
        assert keys_of(running.take_until(bool)) == {b"live"}
        assert running.board.row(0).state is not ChildState.READY
        running.send(SetFeeds(2, (feed(1, other),)))
        running.wait_told(TopologyInForce(2))
        running.wait_ready()


def test_a_node_that_is_new_is_told_to_notify(servers: tuple[ValkeyServer, ValkeyServer]) -> None:
    """Whoever looked at all nodes before the start has not seen it: its flags are seen to before it is listened to."""
    one, other = servers
    client_of(other).config_set("notify-keyspace-events", "")
    with subscriber(feed(0, one)) as running:
        running.send(SetFeeds(2, (feed(0, one), feed(1, other))))
        running.wait_told(TopologyInForce(2))
        wait_for(lambda: is_listened_to(other), "it is listened to")
        running.wait_past(1, client_of(other))
        client_of(other).hset("live", "f", "v")
        assert keys_of(running.take_until(bool)) == {b"live"}
        assert running.count(Counter.GAPS) == 0


def test_gained_slots_are_found_and_nothing_else(servers: tuple[ValkeyServer, ValkeyServer]) -> None:
    """A feed whose slots change keeps its connection, and finds all keys of those that it gained, no others."""
    one = servers[0]
    keys = {b"key:%d" % number for number in range(500)}
    client = client_of(one)
    for key in keys:
        client.hset(key, "f", "v")
    with subscriber(feed(0, one, LOWER)) as running:
        running.wait_past(0, client_of(one))
        running.send(SetFeeds(2, (feed(0, one),), {0: (Missed(1_000, slots=UPPER),)}))
        gained = {key for key in keys if slot_of(key) >= SLOTS // 2}
        taken = running.take_repaired(client, "marker")
        assert keys_of(taken) == gained
        assert {change.event for _, _, change in taken} == {REPAIR}
        running.wait_past(0, client_of(one))
        assert running.heard_table.row(0).version(0) == 2
        assert running.count(Counter.RECONNECTS) == running.count(Counter.GAPS) == 0


def test_no_watermark_speaks_for_slots_that_are_not_found(servers: tuple[ValkeyServer, ValkeyServer]) -> None:
    """Until what gained slots held is found and compared, none of their feed is sent, of whatever moment."""
    one, other = servers
    compared = msgspec.structs.replace(route("hset", "del"), destination="dynamodb://table")
    with subscriber(feed(0, one, LOWER), feed(1, other), routes=(compared,)) as running:
        running.wait_past(0, client_of(one))
        missed = Missed(2**41, slots=UPPER)
        running.send(SetFeeds(2, (feed(0, one), feed(1, other)), {0: (missed,)}))
        wish = running.wait_told(CompareWanted)
        assert isinstance(wish, CompareWanted)
        stands = running.heard_until(node=0)
        for _ in range(2):
            running.wait_past(1, client_of(other))
        assert running.heard_until(node=0) == stands
        assert [running.heard_table.row(0).version(node) for node in (0, 1)] == [0, 2]
        running.send(Compared(wish.number))
        running.wait_past(0, client_of(one))
        assert running.heard_table.row(0).version(0) == 2


def test_a_node_that_is_reached_elsewhere(servers: tuple[ValkeyServer, ValkeyServer]) -> None:
    """A feed whose node has another address is read there, and what is there is found: it was not heard of."""
    one, other = servers
    client_of(other).hset("was there", "f", "v")
    with subscriber(feed(0, one)) as running:
        running.wait_past(0, client_of(one))
        running.send(SetFeeds(2, (feed(0, other),)))
        assert keys_of(running.take_until(bool)) == {b"was there"}
        running.wait_past(0, client_of(other))
        assert not is_listened_to(one)
        assert running.count(Counter.GAPS) == 1


def test_no_feeds_at_all(servers: tuple[ValkeyServer, ValkeyServer]) -> None:
    """A subscriber without feeds is ready, takes some later, and is drained like any other."""
    with subscriber() as running:
        running.send(SetFeeds(1, (feed(0, servers[0]),)))
        running.wait_told(TopologyInForce(1))
        running.wait_past(0, client_of(servers[0]))
        client_of(servers[0]).hset("live", "f", "v")
        assert keys_of(running.take_until(bool)) == {b"live"}
        running.send(SetFeeds(2, ()))
        running.wait_told(TopologyInForce(2))
        running.send(Drain())
        assert running.join() == [0]
        assert running.board.row(0).state is ChildState.DRAINED


def test_no_feeds_where_sentinels_are_named() -> None:
    """A subscriber without feeds has nobody to ask Sentinels for, and sleeps."""
    with subscriber(redis_settings=RedisSettings(url="redis+sentinel://127.0.0.1:1/carts")) as running:
        process = psutil.Process(running.processes[0].pid)
        before = process.num_ctx_switches().voluntary
        time.sleep(1)
        assert process.num_ctx_switches().voluntary - before < 100


def test_a_drain_of_several_feeds(servers: tuple[ValkeyServer, ValkeyServer]) -> None:
    """What both nodes have published before is in the rings; a node that hangs holds up no other's."""
    one, other = servers
    with (
        ValkeyServer(config=FLAGS) as hung,
        subscriber(feed(0, one), feed(1, hung), feed(2, other), ring=SMALL_RING) as running,
    ):
        keys = {b"%d of %d" % (number, server) for server in (0, 1) for number in range(5_000)}
        for number, server in enumerate((one, other)):
            pipe = client_of(server).pipeline(transaction=False)
            for key in range(5_000):
                pipe.hset(f"{key} of {number}", "f", "v")
            pipe.execute()
        os.kill(hung.pid, signal.SIGSTOP)
        try:
            running.send(Drain())
            taken = running.take_until(lambda _: not running.processes[0].is_alive())
        finally:
            os.kill(hung.pid, signal.SIGCONT)
        assert running.join() == [0]
        assert keys_of(taken + running.take()) == keys


def test_an_overflow_is_a_gap_of_the_feed_that_read_it(servers: tuple[ValkeyServer, ValkeyServer]) -> None:
    """What did not fit into the set that all feeds share is found by a scan of its own node alone."""
    one, other = servers
    settings = CaptureSettings(dirty_keys_max=500)
    with subscriber(feed(0, one), feed(1, other), ring=SMALL_RING, settings=settings) as running:
        client_of(other).hset("other", "f", "v")
        parts = itertools.count()
        written: set[bytes] = set()

        def overfill() -> bool:
            part = next(parts)
            pipe = client_of(one).pipeline(transaction=False)
            for number in range(400):
                written.add(b"%d:%d" % (part, number))
                pipe.hset(f"{part}:{number}", "f", "v")
            pipe.execute()
            return running.count(Counter.EVENTS_DROPPED) > 0

        wait_for(overfill, "set and ring are full")
        events = len(written) + 1
        wait_for(lambda: running.count(Counter.EVENTS_READ) == events, "all events are read")
        taken = running.take_until(lambda taken: written <= keys_of(taken))
        assert b"other" in keys_of(taken)
        running.wait_past(0, client_of(one))
        running.wait_past(1, client_of(other))
        assert running.count(Counter.GAPS) == running.count(Counter.REPAIRS) == 1


def test_a_node_that_was_demoted(servers: tuple[ValkeyServer, ValkeyServer]) -> None:
    """Where a primary is a replica now, its watermark stands still and the nodes are asked for; should it become a
    primary again, all since is found.
    """
    one, other = servers
    with subscriber(feed(0, one), feed(1, other)) as running:
        running.wait_past(0, client_of(one))
        client_of(one).replicaof("127.0.0.1", other.port)
        running.wait_told(TopologyChanged)
        stands = running.heard_until(node=0).since_ms
        for _ in range(3):
            running.wait_past(1, client_of(other))
        assert running.heard_until(node=0).since_ms == stands
        assert running.count(Counter.GAPS) == 0
        client_of(one).replicaof("no", "one")
        wait_for(lambda: running.count(Counter.GAPS) == 1, "what it missed is a gap")
        running.wait_past(0, client_of(one))
        assert running.count(Counter.REPAIRS) >= 1
