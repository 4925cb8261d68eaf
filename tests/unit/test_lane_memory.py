from __future__ import annotations

from engine.delivery.lanes.lane import Lane
from engine.delivery.lanes.settle import Frame
from engine.model import Change
from engine.ring.codec import decode_changes, encode_changes


def test_keys_that_have_to_wait_share_what_is_alike() -> None:
    """Where a lane is behind, the changes that come keep one copy of their event's name, and one of their time."""
    lane = Lane(batch_size=2, window_ms=0, slots=1)
    for first in (0, 2, 4):
        sent = [Change(b"cart:%d" % number, "hset", 1, 1_763_890_000_123) for number in (first, first + 1)]
        lane.add(decode_changes(encode_changes(sent)), Frame(0), 1)
    behind = [change for change, _ in lane.waiting.values()][2:]
    assert len(behind) == 4
    assert {change.event for change in behind} == {"hset"}
    assert len({id(change.event) for change in behind}) == 1
    assert len({id(change.captured_ms) for change in behind}) <= 2


def test_events_that_nobody_knows_keep_their_names() -> None:
    """A module's own event waits as it came."""
    lane = Lane(batch_size=1, window_ms=0, slots=1)
    lane.add([Change(b"a", "hset", 1, 5)], Frame(0), 1)
    lane.add([Change(b"b", "my.event", 1, 6), Change(b"c", "hset", 1, 7)], Frame(0), 1)
    assert [(change.event, change.captured_ms) for change, _ in lane.waiting.values()] == [
        ("hset", 5),
        ("my.event", 6),
        ("hset", 7),
    ]
