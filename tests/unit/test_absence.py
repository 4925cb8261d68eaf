"""What becomes of keys that are found gone, and of events that nobody knows yet."""

from __future__ import annotations

import pytest

from engine.capture.dirty import DirtyKeys, interests
from engine.config import RouteSettings
from engine.delivery.lanes.batch import PayloadBuilder
from engine.delivery.lanes.settle import Frame
from engine.delivery.lanes.work import Cause
from engine.delivery.reading.gone import FOUND_GONE_MAX, WINDOW_US, FoundGone
from engine.delivery.reading.questions import Fetched
from engine.routing.routes import RouteTable

PREFIX = b"__keyspace@0__:"


def is_delete(listed: str, event: str, *, is_taken_away: bool) -> bool:
    """Build the payload of one key that is gone; tell whether its delete is in it."""
    builder = PayloadBuilder(RouteSettings("r", "f", events=tuple(listed.split())), 0, 6_000_000)
    value = Fetched(b"k", "none", None, "", 7, is_taken_away=is_taken_away)
    built = builder.build([(b"k", Cause(event, 1_000, Frame(0)))], [value])
    assert len(built.sent) + len(built.settled) == 1
    return bool(built.sent)


@pytest.mark.parametrize("listed", ["hset del", "hset expired", "* hexpired", "changes", "hset absence"])
def test_a_key_that_is_found_gone_is_a_delete(listed: str) -> None:
    """Whatever the event was called, where the server evicts none; where it may, the event has to say so."""
    for event in ("hset", "repair", "hexpired", "spop"):
        assert is_delete(listed, event, is_taken_away=True)
        assert not is_delete(listed, event, is_taken_away=False), "it may have been evicted"
    for event in ("del", "expired", "rename_from", "move_from", "json.del", "repair_gone"):
        assert is_delete(listed, event, is_taken_away=False)


def test_evictions_are_followed_by_name() -> None:
    """A route that lists them deletes what is gone, whyever; one that lists no way to go deletes nothing."""
    assert is_delete("hset evicted", "evicted", is_taken_away=False)
    assert is_delete("changes evicted", "hset", is_taken_away=False)
    assert not is_delete("changes", "evicted", is_taken_away=False)
    for event in ("hset", "del", "repair_gone"):
        assert not is_delete("*", event, is_taken_away=True)
        assert not is_delete("hset hdel", event, is_taken_away=True)


def test_few_keys_that_are_found_gone_count() -> None:
    """A cache that came back empty, or was flushed, does not empty the store: a hundred a minute, of a server that is
    older than the changes.
    """
    info = [b"maxmemory:0\r\nmaxmemory_policy:noeviction\r\nevicted_keys:0\r\nuptime_in_seconds:60\r\n"]
    found = FoundGone()
    assert not found.is_taken_away(1, 60_001, info, 1)
    assert not found.is_taken_away(1, 0, [], 1)
    assert found.is_taken_away(FOUND_GONE_MAX, 60_000, info, WINDOW_US)
    assert not found.is_taken_away(1, 0, info, 2 * WINDOW_US - 1)
    assert found.is_taken_away(1, 0, info, 2 * WINDOW_US)


def test_an_event_that_nobody_wants_leaves_no_trace() -> None:
    """Between two events of one name, it does not lend them its own."""
    table = RouteTable.build([RouteSettings("all", "f", events=("changes",))])
    dirty = DirtyKeys(
        prefix_bytes=len(PREFIX),
        invokers=1,
        keys_max=100,
        key_bytes_max=1_000,
        mapping_prefix=b"",
        uncoalesced_events_max=9,
    )
    heard = [(b"a", b"del"), (b"a", b"expire"), (b"b", b"del"), (b"c", b"future"), (b"d", b"expire"), (b"e", b"future")]
    replies = iter([[b"pmessage", b"*", PREFIX + key, event] for key, event in heard])
    dirty.take_in(lambda: next(replies, False), interests(table), 1)
    assert {key: change.event for key, change in dirty.buckets[0].items()} == {
        b"a": "del",
        b"b": "del",
        b"c": "future",
        b"e": "future",
    }


def test_changes_of_servers_to_come() -> None:
    """Who takes "changes" takes events that nobody knows; not what modules tell of types that cannot be read."""
    table = RouteTable.build(
        [RouteSettings("all", "f", keys=("a:*",), events=("changes",)), RouteSettings("old", "g", events=("*",))]
    )
    dirty = DirtyKeys(
        prefix_bytes=len(PREFIX),
        invokers=1,
        keys_max=100,
        key_bytes_max=1_000,
        mapping_prefix=b"",
        uncoalesced_events_max=9,
    )
    events = [b"hfuture", b"json.future", b"bf.add", b"expire", b"overwritten", b"new", b"keymiss", b"xgroup-setid"]
    replies = iter(
        [[b"pmessage", b"*", PREFIX + b"a:" + event, event] for event in [*events, b"hset"]]
        + [[b"pmessage", b"*", PREFIX + b"b:1", b"hfuture"]]
    )
    intake = dirty.take_in(lambda: next(replies, False), interests(table), 1)
    taken = {key: (change.event, change.routes) for key, change in dirty.buckets[0].items()}
    assert taken == {b"a:hfuture": ("hfuture", 1), b"a:json.future": ("json.future", 1), b"a:hset": ("hset", 3)}
    assert (intake.read, intake.routed) == (10, 3)
