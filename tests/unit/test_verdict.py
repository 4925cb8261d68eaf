"""What an outcome means for records that failed, without a lane."""

from __future__ import annotations

from engine.delivery.lanes.retry import RetryPolicy
from engine.delivery.lanes.settle import Frame
from engine.delivery.lanes.verdict import Again, GivenUp, Restored, Rules, SetAside, Stray
from engine.delivery.lanes.work import Batch, Cause, Entry
from engine.model import Failure, Outcome

UNIX_MS = 1_000_000
FOR_EVER = RetryPolicy(-1, -1)
RAISED = Outcome(Failure.FUNCTION_ERROR, reason="raised")
NAMED = Outcome(Failure.ITEMS, ("0",), "1 record failed")
DOWN = Outcome(Failure.SERVICE, reason="503")
TOO_LARGE = Outcome(Failure.OVERSIZE, reason="413")


def entries(*keys: bytes, captured_ms: int = UNIX_MS) -> list[Entry]:
    return [(key, Cause("hset", captured_ms, Frame(1))) for key in keys]


def test_an_error_of_the_function_is_an_attempt_and_an_outage_is_none() -> None:
    """Both are delivered again; only the first counts against the records."""
    for outcome, counts in ((RAISED, True), (NAMED, True), (DOWN, False)):
        sent = Batch(entries(b"a"), attempts=3)
        (answer,) = Rules(FOR_EVER).decide(sent, sent.entries, outcome, UNIX_MS)
        assert isinstance(answer, Again)
        assert (answer.counts, answer.batch.attempts) == (counts, 3 + counts)


def test_a_batch_is_cut_where_the_route_says_so_or_it_is_too_large() -> None:
    """Both halves keep attempts and fence; records that were named are not cut, nor is a single one."""
    sent = Batch(entries(b"a", b"b", b"c"), attempts=2, fence_ms=70)
    for rules, outcome in ((Rules(FOR_EVER, bisects=True), RAISED), (Rules(FOR_EVER), TOO_LARGE)):
        answers = rules.decide(sent, sent.entries, outcome, UNIX_MS)
        halves = [answer.batch for answer in answers if isinstance(answer, Again)]
        assert [(len(half.entries), half.attempts, half.fence_ms) for half in halves] == [(1, 2, 70), (2, 2, 70)]
    assert len(Rules(FOR_EVER, bisects=True).decide(sent, sent.entries, NAMED, UNIX_MS)) == 1
    assert len(Rules(FOR_EVER, bisects=True).decide(sent, sent.entries, DOWN, UNIX_MS)) == 1
    assert len(Rules(FOR_EVER, bisects=True).decide(sent, sent.entries[:1], RAISED, UNIX_MS)) == 1


def test_records_are_given_up_past_their_attempts_with_the_reason() -> None:
    """The last attempt that is allowed is tried again, the next is not; what is too large alone is never."""
    rules = Rules(RetryPolicy(2, -1))
    sent = Batch(entries(b"a"), attempts=1)
    assert isinstance(rules.decide(sent, sent.entries, RAISED, UNIX_MS)[0], Again)
    for attempts, outcome in ((2, RAISED), (0, TOO_LARGE)):
        sent = Batch(entries(b"a"), attempts)
        (answer,) = rules.decide(sent, sent.entries, outcome, UNIX_MS)
        assert isinstance(answer, GivenUp)
        assert answer.batch.verdict is not None
        assert answer.batch.verdict.reason == f"{outcome.failure.name.lower()}: {outcome.reason}"


def test_records_past_their_age_are_given_up_and_the_others_are_not() -> None:
    """Each is in one answer."""
    old, new = entries(b"old", captured_ms=UNIX_MS - 60_001), entries(b"new")
    sent = Batch(old + new)
    given_up, again = Rules(RetryPolicy(-1, 60_000)).decide(sent, sent.entries, RAISED, UNIX_MS)
    assert isinstance(given_up, GivenUp)
    assert isinstance(again, Again)
    assert (given_up.batch.entries, again.batch.entries) == (old, new)
    assert given_up.batch.verdict is not None
    assert given_up.batch.verdict.reason.startswith("past maximum_record_age_in_seconds; ")


def test_a_retired_lane_leaves_all_to_others() -> None:
    """Whatever failed and however often: the lanes after it decide."""
    sent = Batch(entries(b"a", b"b"), attempts=9)
    rules = Rules(RetryPolicy(0, 0), bisects=True, is_retired=True)
    assert rules.decide(sent, sent.entries, RAISED, UNIX_MS) == [Stray(sent.entries)]


def test_keys_that_fail_alone_while_others_pass_are_set_aside() -> None:
    """Named by the function, or alone in their batch; where nothing else passes it may be the target, and they wait."""
    rules = Rules(FOR_EVER, aside_attempts=3)
    for outcome, keys in ((NAMED, (b"a", b"b")), (RAISED, (b"a",))):
        sent = Batch(entries(*keys), attempts=2)
        (answer,) = rules.decide(sent, sent.entries, outcome, UNIX_MS, others_pass=True)
        assert isinstance(answer, SetAside)
        assert (answer.batch.attempts, answer.why.reason) == (3, f"{outcome.failure.name.lower()}: {outcome.reason}")
        (answer,) = rules.decide(sent, sent.entries, outcome, UNIX_MS)
        assert isinstance(answer, Again)
        assert answer.is_durable
    early = Batch(entries(b"a"), attempts=1)
    (answer,) = rules.decide(early, early.entries, RAISED, UNIX_MS, others_pass=True)
    assert isinstance(answer, Again)
    (answer,) = rules.decide(Batch(entries(b"a"), attempts=9), entries(b"a"), DOWN, UNIX_MS, others_pass=True)
    assert isinstance(answer, Again)


def test_a_batch_that_keeps_failing_whole_is_cut() -> None:
    """Whatever the route says, once others pass; the halves know how large a batch with them may be."""
    sent = Batch(entries(b"a", b"b", b"c"), attempts=2)
    answers = Rules(FOR_EVER, aside_attempts=3).decide(sent, sent.entries, RAISED, UNIX_MS, others_pass=True)
    assert [(len(one.batch.entries), one.batch.together) for one in answers if isinstance(one, Again)] == [
        (1, 1),
        (2, 2),
    ]
    assert len(Rules(FOR_EVER, aside_attempts=3).decide(sent, sent.entries, RAISED, UNIX_MS)) == 1


def test_what_was_sent_early_for_nothing_is_no_attempt() -> None:
    """A probe that fails whole waits on as before; one of which a part passed has had its attempt."""
    sent = Batch(entries(b"a", b"b"), attempts=2, due_ms=100, sent_ms=50)
    (answer,) = Rules(RetryPolicy(2, -1)).decide(sent, sent.entries, RAISED, UNIX_MS)
    assert isinstance(answer, Restored)
    assert answer.batch.attempts == 2
    (answer,) = Rules(RetryPolicy(2, -1)).decide(sent, sent.entries[:1], NAMED, UNIX_MS)
    assert isinstance(answer, GivenUp)
