from __future__ import annotations

from engine.delivery.lanes.retry import Backoff, RetryPolicy
from engine.model import Failure, Outcome


def test_backoff_grows_and_is_bounded() -> None:
    """A wait lies between an eighth of the bound and the bound, which doubles up to its maximum."""
    backoff = Backoff(ms_min=100, ms_max=1_000)
    assert [backoff.wait_ms(n, lambda: 0.999999) for n in (1, 2, 3, 4, 5, 500)] == [
        99, 199, 399, 799, 999, 999,
    ]  # fmt: skip
    assert [backoff.wait_ms(n, lambda: 0.0) for n in (1, 2, 5)] == [12, 25, 125]


def test_only_the_functions_own_errors_count_as_attempts() -> None:
    """A throttle or an outage never uses up a record's attempts; a function error does."""
    policy = RetryPolicy(attempts_max=2, age_ms_max=-1)
    counted = {failure for failure in Failure if policy.counts(Outcome(failure))}
    assert counted == {
        Failure.FUNCTION_ERROR,
        Failure.TIMEOUT,
        Failure.BAD_ANSWER,
        Failure.ITEMS,
        Failure.OVERSIZE,
    }
    assert [policy.gives_up(attempt) for attempt in (0, 1, 2, 3)] == [False, False, False, True]


def test_minus_one_means_no_limit() -> None:
    """−1 retries for ever, whatever the age, as in AWS event source mappings."""
    policy = RetryPolicy(attempts_max=-1, age_ms_max=-1)
    assert not policy.gives_up(10**9)
    assert not policy.is_too_old(0, 10**15)


def test_age_is_counted_from_capture() -> None:
    """A record is too old once more than its age has passed since it was captured."""
    policy = RetryPolicy(attempts_max=-1, age_ms_max=60_000)
    assert not policy.is_too_old(1_000, 61_000)
    assert policy.is_too_old(1_000, 61_001)
