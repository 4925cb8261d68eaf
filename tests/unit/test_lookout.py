from __future__ import annotations

from dataclasses import replace

from engine.capture.feed.lookout import Lookout
from engine.capture.feed.subscription import Subscription
from engine.capture.watch.sight import Replication, Sight
from engine.config import RedisSettings
from engine.routing.feeds import Feed
from engine.routing.nodes import Node

PRIMARY = Sight(1_000, flags="AK", run_id=b"1", replication=Replication(b"master", b"a"))
REPLICA = replace(PRIMARY, server_ms=2_000, replication=Replication(b"slave", b"a", link=b"7"))


def lookout() -> Lookout:
    feed = Feed(Node(1, "id", "127.0.0.1:6379"), (b"__keyspace@0__:*",), bytes(range(256)), takes_empty_key=True)
    made = Lookout(Subscription(RedisSettings(), 0, feed, 0, 1_000), "K")
    made.begin(PRIMARY, 0)
    return made


def test_a_demotion_is_no_gap_until_it_ends() -> None:
    """No watermark counts meanwhile, nor by the look that finds its end; that is a gap, whatever else goes on then."""
    watch = lookout()
    assert watch.take(replace(PRIMARY, server_ms=1_500), [], 0, 0)
    assert not watch.take(REPLICA, [], 0, 0)
    syncing = replace(REPLICA.replication, is_replacing=True)
    assert not watch.take(replace(REPLICA, server_ms=2_500, replication=syncing), [], 0, 0)
    assert watch.take_changes() == []
    again = replace(PRIMARY, server_ms=3_000, replication=replace(PRIMARY.replication, is_replacing=True))
    assert not watch.take(again, [], 0, 0)
    (change,) = watch.take_changes()
    assert change.reasons[0] == "the node's role had changed"
    assert change.is_unsettled
    assert watch.take(replace(again, server_ms=3_500), [], 0, 0)
