"""What subscribers leave in shared memory for those who come after them."""

from __future__ import annotations

import os

from engine.model import Missed
from engine.ring.heard import HeardTable
from engine.routing.nodes import NODES_MAX


def test_what_was_heard_outlives_who_heard_it() -> None:
    """A killed subscriber's row stays: a moment, a mark and a clock of each node."""
    table = HeardTable(2)
    pid = os.fork()
    if not pid:
        table.row(1).set(3, 50_000, 7, 40_000, 2)
        os._exit(0)
    os.waitpid(pid, 0)
    assert table.row(1).get(3) == Missed(50_000, 7, clock_ms=40_000)
    assert table.row(1).version(3) == 2


def test_entries_do_not_touch_each_other() -> None:
    """Every node of every shard has words of its own, the last one too."""
    table = HeardTable(2)
    for shard in (0, 1):
        for node in range(NODES_MAX):
            table.row(shard).set(node, 1 + shard * 1_000 + node, 2**64 - 1 - node, 5, node)
    for shard in (0, 1):
        for node in range(NODES_MAX):
            expected = Missed(1 + shard * 1_000 + node, 2**64 - 1 - node, clock_ms=5)
            assert (table.row(shard).get(node), table.row(shard).version(node)) == (expected, node)


def test_who_heard_nothing_has_heard_since_never() -> None:
    """An entry that nobody wrote names no moment."""
    assert HeardTable(1).row(0).get(5) == Missed(0)


def test_what_has_to_be_found_again_takes_the_moment_back_and_the_mark() -> None:
    """What is wanted since an earlier moment is not narrowed by the mark of a later one, which does not move."""
    row = HeardTable(1).row(0)
    row.set(0, 50_000, 7, 40_000)
    row.lower(0, 60_000)
    assert row.get(0) == Missed(50_000, 0, clock_ms=40_000)
    row.lower(0, 45_000)
    assert row.get(0) == Missed(45_000, 0, clock_ms=40_000)
