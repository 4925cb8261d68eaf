from __future__ import annotations

import os

from engine.ring.counters import BATCH_SIZE_BUCKETS, Board, ChildState, Counter


def test_counters_outlive_the_process_that_counted() -> None:
    """A killed child's counts stay on the board, and its successor goes on adding to them."""
    board = Board(2)
    for amount in (5, 7):
        pid = os.fork()
        if not pid:
            board.row(1).add(Counter.EVENTS_READ, amount)
            os._exit(0)
        os.waitpid(pid, 0)
    assert board.row(1).get(Counter.EVENTS_READ) == 12


def test_rows_and_words_do_not_touch_each_other() -> None:
    """Every word of a row keeps its own value, and a neighbour's row stays as it was."""
    board = Board(3)
    row = board.row(1)
    row.set_pid(4_194_304)
    row.set_state(ChildState.DRAINING)
    row.beat(2**40)
    for counter in Counter:
        row.set(counter, 1_000 + counter)
    for size in (1, 2, 4, 8):
        row.record_batch_size(size)
    assert (row.pid, row.state, row.heartbeat_ms) == (4_194_304, ChildState.DRAINING, 2**40)
    assert row.snapshot() == {counter.name.lower(): 1_000 + counter for counter in Counter}
    assert sum(row.batch_sizes()) == 4
    for other in (board.row(0), board.row(2)):
        assert (other.pid, other.state, other.heartbeat_ms) == (0, ChildState.EMPTY, 0)
        assert not any(other.snapshot().values())
        assert not any(other.batch_sizes())


def test_a_gauge_goes_down_as_well() -> None:
    """What is in flight is added and taken away again."""
    row = Board(1).row(0)
    row.add(Counter.KEYS_IN_FLIGHT, 9)
    row.add(Counter.KEYS_IN_FLIGHT, -4)
    assert row.get(Counter.KEYS_IN_FLIGHT) == 5


def test_batch_sizes_fall_into_buckets_of_powers_of_two() -> None:
    """A batch counts where its size's bits say, and sizes beyond the last bucket in the last."""
    row = Board(1).row(0)
    for size in (1, 2, 3, 4, 7, 8, 500, 1_000_000):
        row.record_batch_size(size)
    expected = [0] * BATCH_SIZE_BUCKETS
    for bucket, count in {1: 1, 2: 2, 3: 2, 4: 1, 9: 1, BATCH_SIZE_BUCKETS - 1: 1}.items():
        expected[bucket] = count
    assert row.batch_sizes() == expected
