from __future__ import annotations

from typing import Any

import pytest

from lambdas.contract import UNBOUNDED_MS, ContractError, Deadline, deadline_of


def test_a_deadline_passes() -> None:
    """Writes may start until the deadline, and neither at it nor after it."""
    deadline = deadline_of({"records": [], "deadline_ms": 10_000})
    assert deadline == Deadline(10_000)
    assert (deadline.remaining_ms(9_990), deadline.has_passed(9_999)) == (10, False)
    assert (deadline.remaining_ms(10_000), deadline.has_passed(10_000)) == (0, True)
    assert (deadline.remaining_ms(99_999), deadline.has_passed(99_999)) == (0, True)


@pytest.mark.parametrize("event", [{"records": []}, {"records": [], "deadline_ms": 0}])
def test_no_deadline_never_passes(event: dict[str, Any]) -> None:
    """A batch without a deadline, or with 0, may be written at any time."""
    deadline = deadline_of(event)
    assert not deadline.has_passed(1 << 60)
    assert deadline.remaining_ms(1 << 60) == UNBOUNDED_MS


@pytest.mark.parametrize("value", ["1763890010123", 1763890010.5, True, None, -1])
def test_a_deadline_that_is_no_time_is_refused(value: Any) -> None:
    """To write without the deadline that somebody meant would be unsafe."""
    with pytest.raises(ContractError, match="deadline_ms"):
        deadline_of({"records": [], "deadline_ms": value})
