"""From what was measured to the figures and the calibration: contention is told apart from smaller batches."""

from __future__ import annotations

import pytest

from benchmarks.judged.figures import invocation_us, law_of
from benchmarks.measured.path import FullLoad
from benchmarks.measured.suite import Measured

KEY_US, INVOCATION_US = 8.0, 1_500.0


def load(batch: float, contention: float = 1.0) -> FullLoad:
    """Return a run whose events cost a part each and a part an invocation."""
    return FullLoad(KEY_US * contention + INVOCATION_US / batch, 50_000, batch)


def measured(slower: float) -> Measured:
    """Return runs with 1, 2 and 4 invokers, whose batches are the smaller and whose keys so much dearer."""
    found = Measured(full=[load(900)] * 6, small=[load(50)] * 3)
    found.by_invokers = {2: [load(450, slower)] * 3, 4: [load(200, slower)] * 3}
    return found


def test_an_invocation_is_told_by_two_sizes_of_batches() -> None:
    """What an invocation costs is what events cost more in small batches."""
    assert invocation_us(measured(1.0)) == pytest.approx(INVOCATION_US)


def test_smaller_batches_are_no_contention() -> None:
    """Invokers that share one server's events have smaller batches; by the law they lose nothing to each other."""
    law = law_of(measured(1.0), measured(1.0).by_invokers)
    assert law is not None
    assert law.efficiency(8) == pytest.approx(1.0, abs=1e-6)


def test_without_more_counts_there_is_no_law() -> None:
    """A quick run, which measures one of each alone, tells no law, and predicts nothing."""
    found = measured(1.0)
    assert law_of(found, {}) is None


def test_contention_is_found_beneath_them() -> None:
    """Keys that cost a fifth more beside others are contention, whatever the batches are."""
    found = measured(1.2)
    law = law_of(found, found.by_invokers)
    assert law is not None
    assert 0.8 < law.efficiency(4) < 0.92
