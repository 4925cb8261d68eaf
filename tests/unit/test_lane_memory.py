from __future__ import annotations

from engine.delivery.lanes.lane import Lane
from engine.delivery.lanes.settle import Frame
from engine.model import Run
from engine.ring.codec import decode_runs, encode_runs


def test_keys_that_have_to_wait_share_what_is_alike() -> None:
    """Keys of a run share all that is known of them, and all runs one copy of their event's name."""
    lane = Lane(batch_size=2, window_ms=0, slots=1)
    for first in (0, 2, 4):
        sent = [Run("hset", 1, 1_763_890_000_123, [b"cart:%d" % number for number in (first, first + 1)])]
        lane.add(decode_runs(encode_runs(sent)), Frame(0), 1)
    causes = list(lane.waiting.values())
    assert len(causes) == 6
    assert len(set(map(id, causes))) == 3
    assert {cause.event for cause in causes} == {"hset"}
    assert len({id(cause.event) for cause in causes}) == 1


def test_events_that_nobody_knows_keep_their_names() -> None:
    """A module's own event waits as it came."""
    lane = Lane(batch_size=1, window_ms=0, slots=1)
    lane.add([Run("hset", 1, 5, [b"a"])], Frame(0), 1)
    lane.add([Run("my.event", 1, 6, [b"b"]), Run("hset", 1, 7, [b"c"])], Frame(0), 1)
    assert [(cause.event, cause.captured_ms) for cause in lane.waiting.values()] == [
        ("hset", 5),
        ("my.event", 6),
        ("hset", 7),
    ]
