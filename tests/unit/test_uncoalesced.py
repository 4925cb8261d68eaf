"""Routes with ``coalesce = false``: each event is a record of its own, on the whole way and within bounds."""

from __future__ import annotations

from collections.abc import Iterable

import orjson
from hypothesis import given
from hypothesis import strategies as st

from engine.capture.dirty import DirtyKeys, interests
from engine.capture.flush import runs_of
from engine.config import RouteSettings
from engine.delivery.lanes.batch import Built, PayloadBuilder
from engine.delivery.lanes.lane import Lane
from engine.delivery.lanes.retry import failed_entries
from engine.delivery.lanes.settle import DURABLE, Ledger
from engine.delivery.lanes.work import Batch, Cause
from engine.delivery.reading.questions import Fetched
from engine.delivery.targets.batches import parts_of
from engine.delivery.targets.sqs import identity_of
from engine.model import Failure, Outcome, Run
from engine.ring.codec import decode_runs, encode_runs
from engine.routing.routes import RouteTable
from tests.runs import dirty_in, each_of

EACH = RouteSettings("each", "f", keys=("cart:*",), events=("hset", "hdel"), coalesce=False)
LAST = RouteSettings("last", "g", events=("hset", "expire"))
TABLE = RouteTable.build([EACH, LAST])


def taken_in(events: Iterable[tuple[bytes, bytes]], *, keys_max: int = 100, events_max: int = 100) -> DirtyKeys:
    dirty = DirtyKeys(
        prefix_bytes=0,
        invokers=1,
        keys_max=keys_max,
        key_bytes_max=100,
        mapping_prefix=b"",
        uncoalesced_events_max=events_max,
    )
    dirty.uncoalesced = TABLE.uncoalesced()
    for now_ms, (key, event) in enumerate(events, 1):
        replies = iter([[b"pmessage", b"*", key, event]])
        dirty.take_in(lambda replies=replies: next(replies, False), interests(TABLE), now_ms)  # type: ignore[misc]
    return dirty


def lane_of(*runs: Run) -> Lane:
    lane = Lane(batch_size=10, window_ms=0, slots=1)
    lane.coalesces = False
    ledger = Ledger()
    for end, run in enumerate(runs, 1):
        lane.add([run], ledger.add(end), 0)
    return lane


def build(run: Run, *, body: str | None = "{}", limit: int = 6_000_000, **route: object) -> Built:
    options: dict[str, object] = {"events": ("hset", "hdel"), "coalesce": False, **route}
    builder = PayloadBuilder(RouteSettings("r", "f", **options), 0, limit)  # type: ignore[arg-type]
    (key,) = run.keys
    return builder.build([(key, Cause.of(run, DURABLE))], [Fetched(key, "hash", body, "", 7)])


def told(built: Built) -> list[tuple[str, int]]:
    return [(one["event"], one["captured_at_ms"]) for one in orjson.loads(built.payload)["records"]]


def test_a_subscriber_keeps_events_apart_for_those_that_want_them() -> None:
    """Of a key that such a route wants each event is kept with its time; of others only the newest."""
    dirty = taken_in([(b"cart:1", b"hset"), (b"user:1", b"hset"), (b"cart:1", b"hdel"), (b"user:1", b"hset")])
    changes = dirty.buckets[0]
    assert changes[b"cart:1"].events == (("hset", 1), ("hdel", 3))
    assert changes[b"cart:1"].captured_ms == 1
    assert changes[b"user:1"].events == ()
    runs = runs_of(list(changes), list(changes.values()))
    assert decode_runs(encode_runs(runs)) == runs
    assert each_of(runs) == dirty_in(changes)


def test_events_of_servers_to_come_are_told_apart_too() -> None:
    """A history of "changes" has a record of an event that nobody knows; one of other events has none."""
    run = Run("hset", 1, 1, [b"k"], (("hfuture", 1), ("persist", 2), ("hset", 3)))
    assert told(build(run, events=("changes",))) == [("hfuture", 1), ("hset", 3)]
    assert told(build(run, events=("*",))) == [("hset", 3)]


def test_events_that_no_such_route_lists_are_not_kept() -> None:
    """An event for a coalescing route alone adds nothing to what the others are told."""
    assert taken_in([(b"cart:1", b"hset"), (b"cart:1", b"expire")]).buckets[0][b"cart:1"].events == (("hset", 1),)


@given(st.lists(st.tuples(st.sampled_from([b"cart:1", b"cart:2", b"user:1"]), st.sampled_from([b"hset", b"hdel"]))))
def test_events_that_are_kept_apart_are_bounded(events: list[tuple[bytes, bytes]]) -> None:
    """No key has more than its share, all together no more than there may be keys, and room comes back."""
    dirty = taken_in(events, keys_max=5, events_max=3)
    changes = list(dirty.buckets[0].values())
    assert all(len(change.events) <= 3 for change in changes)
    assert dirty._events == sum(len(change.events) for change in changes) <= 5
    dirty.remove(0, list(dirty.buckets[0]))
    assert dirty._events == 0


def test_a_lane_appends_what_comes_while_a_key_waits_or_is_in_flight() -> None:
    """Events stay in order over merges and retries; a repair adds none."""
    lane = lane_of(
        Run("hset", 1, 1, [b"a"], (("hset", 1), ("hdel", 2))),
        Run("hset", 1, 3, [b"a"], (("hset", 3),)),
        Run("repair", 1, 4, [b"a"]),
    )
    batch = lane.take(0)
    assert batch is not None
    lane.add([Run("hdel", 1, 5, [b"a"], (("hdel", 5),))], Ledger().add(9), 0)
    lane.fold_held(batch)
    assert batch.entries[0][1].events == (("hset", 1), ("hdel", 2), ("hset", 3), ("hdel", 5))


def test_two_lanes_share_no_events() -> None:
    """What one lane appends to what it knows of a key is not seen by another one that has the same run."""
    run = Run("hset", 3, 1, [b"a"], (("hset", 1),))
    first, second = lane_of(run), lane_of(run)
    first.add([Run("hset", 1, 2, [b"a"], (("hset", 2),))], Ledger().add(1), 0)
    assert second.waiting[b"a"].events == (("hset", 1),)


def test_each_event_is_a_record() -> None:
    """One read, one record an event, in order, each with its own name and time; identifiers are the places."""
    built = build(Run("hdel", 1, 1, [b"cart:1"], (("hset", 1), ("expire", 2), ("hdel", 3))))
    assert told(built) == [("hset", 1), ("hdel", 3)]
    assert [one["record_id"] for one in orjson.loads(built.payload)["records"]] == ["0", "1"]
    assert len(built.sent) == 2
    assert len(built.entries()) == 1


def test_a_coalescing_route_has_one_record_of_the_same_change() -> None:
    """Who shares a key with such a route is told of its newest event alone."""
    run = Run("hdel", 3, 1, [b"cart:1"], (("hset", 1), ("hdel", 3)))
    assert told(build(run, coalesce=True)) == [("hdel", 1)]


def test_what_does_not_fit_is_delivered_next() -> None:
    """Events past batch_size, or past the payload, stay with their key, in order, before newer ones."""
    events = tuple(("hset", moment) for moment in range(1, 6))
    for options in ({"batch_size": 2}, {"limit": 520}):
        lane = lane_of(Run("hset", 1, 1, [b"a"], events))
        seen: list[tuple[str, int]] = []
        while batch := lane.take(0):
            entry = batch.entries[0]
            builder = RouteSettings("r", "f", coalesce=False, batch_size=options.get("batch_size", 500))
            built = PayloadBuilder(builder, 0, options.get("limit", 6_000_000)).build(
                [entry], [Fetched(b"a", "hash", "{}", "", 7)]
            )
            for left, rest in built.left:
                lane.hold_back(left, rest)
            seen += told(built)
            lane.settle(built.entries())
        assert seen == list(events)


def test_what_is_held_back_stands_before_what_came_later() -> None:
    """A key that changes while a part of its events is in flight keeps their order, and its ring."""
    lane, ledger = lane_of(), Ledger()
    lane.add([Run("hset", 1, 1, [b"a"], (("hset", 1), ("hset", 2)))], ledger.add(10), 0)
    batch = lane.take(0)
    assert batch is not None
    lane.add([Run("hdel", 1, 3, [b"a"], (("hdel", 3),))], ledger.add(20), 0)
    lane.hold_back(batch.entries[0], (("hset", 2),))
    assert lane.held[b"a"].events == (("hset", 2), ("hdel", 3))
    lane.settle(batch.entries)
    assert ledger.settled() == 10
    assert list(lane.waiting) == [b"a"]


def test_one_failed_record_of_a_key_fails_the_key_once() -> None:
    """Its events are sent again together: values of one key keep their order."""
    entry, other = (b"a", Cause("hset", 1, DURABLE)), (b"b", Cause("hset", 1, DURABLE))
    batch = Batch([entry, other], sent=[entry, entry, other])
    failed, _ = failed_entries(batch, Outcome(Failure.ITEMS, ("0", "1")))
    assert failed == [entry]


def test_events_that_are_equal_in_all_else_have_an_ordinal() -> None:
    """Six pushes of one transaction are six messages of a queue: equal in all else, each with its ordinal."""
    built = build(Run("hset", 1, 1, [b"cart:1"], (("hset", 1),) * 6))
    records = orjson.loads(built.payload)["records"]
    assert [one.get("ordinal", 0) for one in records] == [0, 1, 2, 3, 4, 5]
    assert "ordinal" not in records[0]
    assert len({identity_of(part) for part in parts_of(built.payload)}) == 6
