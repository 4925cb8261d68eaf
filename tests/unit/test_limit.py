from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.delivery.lanes.limit import THROTTLE_PAUSE_MS, ConcurrencyLimit, RetryBudget


def test_a_throttle_halves_the_limit_once_for_all_that_were_in_flight() -> None:
    """Throttles that come together count as one; the next one counts after the pause; one slot always stays."""
    limit = ConcurrencyLimit(8)
    assert limit.slots == 8
    seen = []
    for at_ms in (0, 1, THROTTLE_PAUSE_MS - 1, THROTTLE_PAUSE_MS, 2 * THROTTLE_PAUSE_MS, 9_000, 10_000, 11_000):
        limit.throttled(at_ms)
        seen.append(limit.slots)
    assert seen == [4, 4, 4, 2, 1, 1, 1, 1]


def test_successes_give_back_about_a_slot_a_round() -> None:
    """A round of successes adds one slot, so the limit grows evenly, up to its most and never beyond."""
    limit = ConcurrencyLimit(6)
    for at_ms in range(0, 10 * THROTTLE_PAUSE_MS, THROTTLE_PAUSE_MS):
        limit.throttled(at_ms)
    rounds = []
    for _ in range(8):
        for _ in range(limit.slots):
            limit.succeeded()
        rounds.append(limit.slots)
    assert rounds == sorted(rounds)
    assert all(later - earlier <= 1 for earlier, later in pairwise(rounds))
    assert rounds[0] == 2
    assert rounds[-1] == 6


def test_a_reload_changes_the_most() -> None:
    """A free limit follows the new most at once; a throttled one is only cut, and grows there by successes."""
    free = ConcurrencyLimit(2)
    free.resize(5)
    assert free.slots == 5
    free.resize(3)
    assert free.slots == 3
    throttled = ConcurrencyLimit(8)
    throttled.throttled(0)
    throttled.resize(16)
    assert throttled.slots == 4
    throttled.resize(3)
    assert throttled.slots == 3
    for _ in range(100):
        throttled.succeeded()
    assert throttled.slots == 3


def test_a_clock_that_was_set_back_does_not_deafen_the_limit() -> None:
    """A throttle long before the last one is another one, not a repetition."""
    limit = ConcurrencyLimit(8)
    limit.throttled(1_000_000)
    limit.throttled(1_000)
    assert limit.slots == 2


@settings(max_examples=200, deadline=None)
@given(
    slots=st.integers(1, 1_000),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("throttled"), st.integers(0, 10**6)),
            st.tuples(st.just("succeeded"), st.just(0)),
            st.tuples(st.just("resize"), st.integers(1, 1_000)),
        ),
        max_size=60,
    ),
)
def test_the_limit_is_always_between_one_and_its_most(slots: int, steps: list[tuple[str, int]]) -> None:
    """Whatever comes in whatever order: 1 ≤ slots ≤ most."""
    limit, most = ConcurrencyLimit(slots), slots
    for name, argument in steps:
        if name == "throttled":
            limit.throttled(argument)
        elif name == "succeeded":
            limit.succeeded()
        else:
            most = argument
            limit.resize(argument)
        assert 1 <= limit.slots <= most


def test_a_budget_bounds_retries_and_names_the_wait() -> None:
    """Retries are allowed while there are tokens; then the wait that is named is exactly long enough."""
    budget = RetryBudget(tokens_max=10, refill_per_s=2, refund=0.5)
    assert [budget.take(0, 5) for _ in range(2)] == [0, 0]
    assert budget.take(0, 1) == 500
    assert budget.take(0, 4) == 2_000
    assert budget.take(499, 1) > 0
    assert budget.take(500, 1) == 0
    assert budget.take(500, 1) == 500


def test_successes_pay_for_retries() -> None:
    """A success gives a part of a token back, never more than the budget holds."""
    budget = RetryBudget(tokens_max=2, refill_per_s=0.001, refund=0.5)
    assert budget.take(0, 2) == 0
    assert budget.take(0, 1) > 0
    budget.succeeded()
    assert budget.take(0, 1) > 0
    budget.succeeded()
    assert budget.take(0, 1) == 0
    for _ in range(100):
        budget.succeeded()
    assert budget.tokens == 2


def test_no_cost_waits_for_ever() -> None:
    """A cost beyond the whole budget is paid with all of it."""
    budget = RetryBudget(tokens_max=3, refill_per_s=1)
    assert budget.take(0, 1_000) == 0
    assert budget.take(0, 1_000) == 3_000
    assert budget.take(3_000, 1_000) == 0


@settings(max_examples=200, deadline=None)
@given(
    tokens_max=st.floats(0.5, 1_000),
    refill=st.floats(0.01, 1_000),
    steps=st.lists(st.tuples(st.integers(-1_000, 5_000), st.floats(0.01, 50), st.booleans()), max_size=50),
)
def test_the_wait_that_is_named_suffices(
    tokens_max: float, refill: float, steps: list[tuple[int, float, bool]]
) -> None:
    """Whatever went before, also a clock that was set back: who waits as long as told is allowed."""
    budget = RetryBudget(tokens_max, refill, 0.2)
    now_ms = 0
    for passed_ms, cost, succeeds in steps:
        now_ms += passed_ms
        wait_ms = budget.take(now_ms, cost)
        assert wait_ms >= 0
        if wait_ms:
            now_ms += wait_ms
            assert budget.take(now_ms, cost) == 0
        if succeeds:
            budget.succeeded()
        assert 0 <= budget.tokens <= tokens_max
