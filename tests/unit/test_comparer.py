"""When a comparison begins, and whose wishes it fulfils."""

from __future__ import annotations

from typing import cast

import pytest

from engine.supervision.errands.comparer import Comparer
from engine.supervision.errands.errand import Errand
from engine.supervision.errands.planner import Answer, Findings


class _Errand:
    """One that is under way until it is given its answer."""

    def __init__(self) -> None:
        self.process: object | None = None
        self.answer: Answer | None = None

    def start(self, _work: object, _give_up_ms: int) -> None:
        self.process = object()

    def poll(self, _now_ms: int) -> Answer | None:
        answer, self.answer = self.answer, None
        if answer is not None:
            self.process = None
        return answer


@pytest.fixture
def errand() -> _Errand:
    return _Errand()


@pytest.fixture
def comparer(errand: _Errand) -> Comparer:
    return Comparer(cast("Errand", errand))


def _run(comparer: Comparer, errand: _Errand, now_ms: int) -> dict[int, int] | None:
    errand.answer = Findings(compared=0, published=0)
    comparer.start(lambda: Findings(0, 0), now_ms)
    return comparer.poll(now_ms)


def test_a_comparison_waits_for_what_may_still_write(comparer: Comparer, errand: _Errand) -> None:
    """None begins before the fence of its wish has passed: an invocation of before could bring a deleted key back."""
    comparer.want(0, 1, not_before_ms=1_000)
    assert not comparer.is_due(999)
    assert comparer.is_due(1_000)
    assert _run(comparer, errand, 1_000) == {0: 1}
    assert not comparer.is_due(1_000_000)


def test_a_run_fulfils_only_wishes_whose_fence_has_passed(comparer: Comparer, errand: _Errand) -> None:
    """A wish whose fence has not passed when a run begins waits for the next one."""
    comparer.want(0, 1, not_before_ms=1_000)
    comparer.want(1, 1, not_before_ms=1_500)
    assert _run(comparer, errand, 1_200) == {0: 1}
    assert not comparer.is_due(1_499)
    assert _run(comparer, errand, 1_500) == {1: 1}
