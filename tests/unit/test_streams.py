"""The pure parts of the ``stream`` source: entries, the ledger, how a group stands, who reads which stream."""

from __future__ import annotations

from typing import Any

import pytest

from engine.capture.sources.stream.entries import Shape, before, parsed
from engine.capture.sources.stream.ledger import Ledger
from engine.capture.sources.stream.standing import Account, Standing
from engine.config import CaptureSettings, RouteSettings
from engine.delivery.reading.questions import ask, interpret_all
from engine.redis.connection import pack
from engine.routing.glob import matcher
from engine.routing.nodes import Node, Topology
from engine.routing.slices import Slice
from engine.routing.streams import assign_streams, entry_key, entry_of, for_entries


def replies_of(taken: Any) -> list[Any]:
    next_reply, found = taken.next_reply(), []
    while (reply := next_reply()) is not False:
        found.append(reply)
    return found


def test_entries_name_keys() -> None:
    """A field names the key, another the event; what names none is malformed, what has no fields was deleted."""
    shape = Shape(CaptureSettings(source="stream", key_field="key"), 0)
    entries = [
        [b"1-0", [b"key", b"a"]],
        [b"2-0", [b"event", b"del", b"key", b"b"]],
        [b"3-0", [b"other", b"c"]],
        [b"4-0", None],
        [b"5-0", [b"key", b"known"]],
    ]
    taken = shape.take(b"s", entries, {b"5-0"})
    assert replies_of(taken) == [
        [b"pmessage", b"", b"__keyspace@0__:a", b"named"],
        [b"pmessage", b"", b"__keyspace@0__:b", b"del"],
    ]
    assert (taken.ids, taken.malformed, taken.gone) == ([b"1-0", b"2-0", b"3-0", b"4-0"], [b"3-0"], [b"4-0"])


def test_entries_carry_records() -> None:
    """Each entry stands for itself: its stream and its id."""
    shape = Shape(CaptureSettings(source="stream", fields=("*",)), 3)
    assert replies_of(shape.take(b"a/b", [[b"1-0", [b"f", b"v"]]])) == [
        [b"pmessage", b"", b"__keyspace@3__:a/b/1-0", b"entry"]
    ]
    assert entry_of(entry_key(b"a/b", b"1-0")) == (b"a/b", b"1-0")


@pytest.mark.parametrize(
    ("entry_id", "expected"),
    [(b"5-1", b"5-0"), (b"5-0", b"4-18446744073709551615"), (b"0-1", b"0-0"), (b"0-0", b"0-0")],
)
def test_the_id_before(entry_id: bytes, expected: bytes) -> None:
    """It is the greatest that is less, in the order of ids."""
    assert before(entry_id) == expected
    assert parsed(expected) <= parsed(entry_id)


def test_entries_are_acknowledged_under_their_mark() -> None:
    """What is settled up to a mark is acknowledged, all else stays; what is forgotten is never acknowledged."""
    ledger = Ledger(100)
    ledger.take(b"s", [b"1-0", b"2-0"])
    assert ledger.close() == 101
    assert ledger.close() == 101, "nothing is new"
    ledger.take(b"s", [b"3-0"])
    ledger.take(b"t", [b"9-0"])
    assert ledger.close() == 102
    assert ledger.settle(100) == {}
    assert ledger.settle(101) == {b"s": [b"1-0", b"2-0"]}
    assert ledger.count == 4, "until the server knows"
    assert ledger.known(b"s") == {b"1-0", b"2-0", b"3-0"}
    ledger.acknowledged(b"s", 1)
    assert ledger.unacknowledged(b"s") == [b"2-0"]
    ledger.forget([b"s"])
    assert (ledger.count, ledger.known(b"s")) == (1, frozenset())
    assert ledger.settle(102) == {b"t": [b"9-0"]}


def standing(length: int, first: str, last: str, added: int, delivered: str, **more: Any) -> Standing:
    values: dict[str, Any] = {"deleted": b"0-0", "read": None, "lag": None, "pending": b"", "pending_count": 0}
    return Standing(
        length=length,
        first=first.encode(),
        last=last.encode(),
        added=added,
        delivered=delivered.encode(),
        others=(),
        **{**values, **more},
    )


def test_what_was_trimmed_unread_is_missing() -> None:
    """What the group has passed beyond what was received is missing, and may have been removed."""
    account = Account()
    assert account.look(standing(10, "1-0", "10-0", 10, "10-0")) == 0
    account.received = 5
    assert account.look(standing(15, "1-0", "15-0", 15, "15-0")) == 0
    # Ten more are added, and all but two of them trimmed.
    assert account.look(standing(2, "24-0", "25-0", 25, "15-0")) == 8
    assert account.is_removed
    account.received = 7
    assert account.look(standing(2, "24-0", "25-0", 25, "25-0")) == 8
    account.close(8)
    assert account.look(standing(2, "24-0", "25-0", 25, "25-0")) == 0


def test_what_another_was_given_is_missing_and_not_removed() -> None:
    """Where nothing was removed, somebody else was given what is missing."""
    account = Account()
    account.look(standing(10, "1-0", "10-0", 10, "10-0"))
    account.received = 3
    assert account.look(standing(15, "1-0", "15-0", 15, "15-0")) == 2
    assert not account.is_removed


def test_a_server_that_does_not_count_says_nothing() -> None:
    """Redis 6 does not say how many entries were ever added."""
    account = Account()
    look = Standing(1, b"9-0", b"9-0", None, b"0-0", b"1-0", None, None, b"", 0, ())
    assert (account.look(look), account.look(look)) == (0, 0)


def test_each_stream_is_read_once() -> None:
    """Over all slices and shards of a cluster each stream is in one feed, at the node that has its slot."""
    # Not numbered yet, as when nodes are asked for anew.
    nodes = (Node(0, "a", "h:1", ((0, 8000),)), Node(0, "b", "h:2", ((8001, 16383),)))
    topology = Topology(nodes, is_cluster=True)
    streams = [b"s%d" % number for number in range(20)]
    found = []
    for index in range(3):
        for feeds in assign_streams(topology, 2, Slice(index, 3), streams):
            for feed in feeds:
                assert all(feed.owns(stream) for stream in feed.streams)
                found += feed.streams
    assert sorted(found) == sorted(streams)


@pytest.mark.parametrize(
    ("keys", "taken", "left"),
    [
        (("*",), b"orders/1-0", b""),
        (("ord*",), b"orders/1-0", b"other/1-0"),
        (("nobody",), b"", b"orders/1-0"),
        (("[a]*",), b"a[x]/1-0", b"orders/1-0"),
    ],
)
def test_routes_take_entries_by_their_streams(keys: tuple[str, ...], taken: bytes, left: bytes) -> None:
    """The patterns of a route are those of streams."""
    route = for_entries(RouteSettings("r", "f", keys=keys), [b"orders", b"other", b"a[x]"])
    matches = matcher([pattern.encode() for pattern in route.keys])
    assert not taken or matches(taken)
    assert not left or not matches(left)


def test_an_entry_is_read_by_its_id() -> None:
    """Its body are its fields, or those that are wanted; one that is gone can never be delivered."""
    assert ask([b"orders/1-0"], ["entry"]) == pack("XRANGE", "orders", "1-0", "1-0")
    replies = [[["1-0", ["b", "2", "a", "1"]]], []]
    keys, kinds = [b"orders/1-0", b"orders/2-0"], ["entry", "entry"]
    (there, gone), again = interpret_all(keys, kinds, replies, 7)
    assert not again
    assert (there.body, there.type, there.version) == ('{"a":"1","b":"2"}', "entry", 7)
    assert "deleted or trimmed" in gone.error
    assert not gone.passes
    (there, _), _ = interpret_all(keys, kinds, replies, 7, {"b"})
    assert there.body == '{"b":"2"}'
