"""The parts of a lane and of an invoker that decide, each by itself."""

from __future__ import annotations

from engine.delivery.intake import MARKS_OF_A_REPAIR, Distrust
from engine.delivery.lanes.fences import Fences
from engine.delivery.lanes.health import Health
from engine.delivery.lanes.retry import Backoff
from engine.delivery.lanes.verdict import Again
from engine.delivery.lanes.work import Batch
from engine.model import Failure, Outcome

DOWN = Outcome(Failure.SERVICE, reason="503")
THROTTLED = Outcome(Failure.THROTTLED, reason="429", retry_after_ms=7_000)
NAMED = Outcome(Failure.ITEMS, ("0",), "1 record failed")
RAISED = Outcome(Failure.FUNCTION_ERROR, reason="raised")


def test_a_lost_invocation_may_write_until_its_fence() -> None:
    """A later one that ends earlier takes nothing off; what flies may write whatever the time."""
    fences = Fences()
    assert not fences.may_still_write(0)
    fences.lose(100)
    fences.lose(50)
    assert fences.until_ms() == 100
    assert fences.may_still_write(99)
    assert not fences.may_still_write(100)
    fences.flying.append(Batch([], fence_ms=300))
    assert fences.until_ms() == 300
    assert fences.may_still_write(1_000)


def test_a_lane_waits_for_those_before_it() -> None:
    """Nothing starts before its time, nor while an invocation of an elder may have an effect."""
    elder = Fences()
    fences = Fences([elder])
    fences.start_at(20)
    elder.lose(40)
    assert [fences.may_start(moment) for moment in (10, 30, 40)] == [False, False, True]


def sent_at(moment_ms: int, **past: int) -> Batch:
    return Batch([], sent_ms=moment_ms, **past)


def test_an_outage_pauses_the_route_and_a_functions_error_only_its_batch() -> None:
    """A wish of the service is heeded, and a fence; a success ends the trouble."""
    health = Health(4, Backoff(50, 2_000), 0)
    health.take_in(sent_at(0), THROTTLED, 0, settles=False)
    assert (health.is_troubled, health.slots) == (True, 2)
    assert health.wait_ms(Again(Batch([]), counts=False), THROTTLED, 0, lambda: 0.0) == (7_000, 7_000)
    wait_ms, pause_ms = health.wait_ms(Again(Batch([], 1, fence_ms=900), counts=True), RAISED, 0, lambda: 0.0)
    assert (wait_ms, pause_ms) == (900, 0)
    health.take_in(sent_at(0), Outcome(), 0, settles=True)
    assert not health.is_troubled


def test_waits_of_an_outage_grow_until_a_success() -> None:
    """Each failure in a row doubles the pause; the first success begins anew."""
    health = Health(1, Backoff(80, 10_000), 0)
    again = Again(Batch([]), counts=False)
    waits = [health.wait_ms(again, DOWN, 0, lambda: 0.0)[1] for _ in range(3)]
    health.take_in(sent_at(0), Outcome(), 0, settles=True)
    assert [*waits, health.wait_ms(again, DOWN, 0, lambda: 0.0)[1]] == [10, 20, 40, 10]


def test_an_answer_that_names_every_record_is_no_success() -> None:
    """A lane that settles nothing is in trouble, and its limit does not grow by that; a part that passes is one."""
    health = Health(4, Backoff(50, 2_000), 0)
    health.take_in(sent_at(0), THROTTLED, 0, settles=False)
    for _ in range(20):
        health.take_in(sent_at(1), NAMED, 1, settles=False)
    assert (health.is_troubled, health.slots) == (True, 2)
    for _ in range(20):
        health.take_in(sent_at(1), NAMED, 1, settles=True)
    assert (health.is_troubled, health.slots) == (False, 4)


def test_a_target_that_is_down_is_asked_once_a_second() -> None:
    """It is down once nothing was settled for a second; a wish of the service to be left alone is heeded."""
    health = Health(1, Backoff(50, 2_000), 0)
    health.asked(500)
    health.take_in(sent_at(500), RAISED, 600, settles=False)
    assert health.asks_at_ms(999) is None
    assert health.asks_at_ms(1_000) == 1_500
    health.asked(1_500)
    assert health.asks_at_ms(1_600) == 2_500
    health.take_in(sent_at(1_500), THROTTLED, 1_600, settles=False)
    assert health.asks_at_ms(2_500) == 8_600
    assert health.take_in(sent_at(1_500), Outcome(), 2_600, settles=True)
    assert health.asks_at_ms(9_000) is None


def test_suspects_leave_slots_free_as_long_as_they_fail() -> None:
    """Half of the slots, and one at least; once one of them passes they may have all."""
    health = Health(4, Backoff(50, 2_000), 0)
    health.take_in(sent_at(0), RAISED, 0, settles=False)
    assert health.suspects_max == 4
    health.take_in(sent_at(0, attempts=1), RAISED, 0, settles=False)
    assert health.suspects_max == 2
    health.take_in(sent_at(0), Outcome(), 0, settles=True)
    assert health.suspects_max == 2
    health.take_in(sent_at(0, attempts=2), Outcome(), 0, settles=True)
    assert health.suspects_max == 4


def test_watermarks_count_again_once_what_was_lost_is_found() -> None:
    """A damaged ring distrusts its own; a damaged backlog is found when every ring has had its watermarks."""
    distrust = Distrust([(0,), (0,)])
    distrust.damaged(0)
    assert [distrust.believes(0, 0)[0] for _ in range(MARKS_OF_A_REPAIR + 1)] == [False] * MARKS_OF_A_REPAIR + [True]
    assert distrust.believes(1, 0) == (True, False)
    distrust.await_all()
    found = [distrust.believes(index, 0)[1] for _ in range(MARKS_OF_A_REPAIR) for index in (0, 1)]
    assert found == [False] * (2 * MARKS_OF_A_REPAIR - 1) + [True]


def test_one_node_does_not_speak_for_another() -> None:
    """What a ring lost of a node that is slow is found no sooner for the watermarks of one that is quick; rings of
    shards without feeds are not waited for, and a node that comes while it is looked for is.
    """
    distrust = Distrust([(1, 2), ()])
    distrust.damaged(0)
    distrust.await_all()
    assert [distrust.believes(0, 1) for _ in range(MARKS_OF_A_REPAIR + 1)][-1] == (True, False)
    assert [distrust.believes(0, 2) for _ in range(MARKS_OF_A_REPAIR)] == [(False, False)] * (MARKS_OF_A_REPAIR - 1) + [
        (False, True)
    ]
    distrust.await_all()
    distrust.nodes = [(1, 2), (3,)]
    for node in (1, 2):
        assert not any(distrust.believes(0, node)[1] for _ in range(MARKS_OF_A_REPAIR))
    assert [distrust.believes(1, 3)[1] for _ in range(MARKS_OF_A_REPAIR)] == [False] * (MARKS_OF_A_REPAIR - 1) + [True]
