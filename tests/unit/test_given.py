"""Versions that outlive who gave them out: an invoker, and the whole engine."""

from __future__ import annotations

from engine.ring.given import GivenTable
from engine.supervision.progress.versions import NodeVersions

SECOND_US = 1_000_000


def test_each_invoker_keeps_its_own_of_each_node() -> None:
    """A successor finds what its predecessor gave out; a start, what anybody did."""
    table = GivenTable(2)
    table.rows[0].set(3, 70)
    table.rows[1].set(3, 90)
    assert (table.rows[0].get(3), table.rows[1].get(3), table.rows[0].get(2)) == (70, 90, 0)
    assert (table.highest(3), table.highest(0)) == (90, 0)


def test_a_start_goes_on_above_what_each_node_gave_out() -> None:
    """Each node has a floor of its own: that of one says nothing of another, whose epoch may be lower by far."""
    versions = NodeVersions({}, unseen_us=0)
    assert versions.floors == {}
    kept = versions.keep({"a": 10 * SECOND_US, "b": 500 * SECOND_US, "c": 0}, 1_000, is_clean=False)
    assert kept == {"a": 10 * SECOND_US, "b": 500 * SECOND_US}
    after = NodeVersions(kept, unseen_us=2 * SECOND_US)
    assert after.floors == {"a": 12 * SECOND_US, "b": 502 * SECOND_US}
    assert after.keep({"a": 0, "b": 501 * SECOND_US}, 1_000, is_clean=False) == after.floors


def test_what_was_not_read_for_a_while_may_be_higher_by_that() -> None:
    """A version that is given out right after a checkpoint is above what it says by the time that passed."""
    versions = NodeVersions({}, unseen_us=0)
    given = {"a": 10 * SECOND_US}
    versions.keep(given, 1_000, is_clean=False)
    assert versions.keep(given, 61_000, is_clean=False) == {"a": 70 * SECOND_US}
    assert versions.keep(given, 61_000, is_clean=True) == given
