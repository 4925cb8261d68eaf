"""Lags: how they are counted, read, merged, and what is said of the last minute and hour."""

from __future__ import annotations

import json
import os
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from engine.observe.history import MINUTES, History
from engine.observe.metrics import lags_in
from engine.ring.counters import Board, Counter, GapReason
from engine.ring.lags import BUCKETS, EMPTY, LAG_MS_MAX, Histogram, Stage, bucket_of, upper_ms

LAGS = st.integers(0, LAG_MS_MAX)


def described(history: History, board: Board, moment_ms: int) -> dict[str, object]:
    """Return what the status says, as its readers find it."""
    said = history.describe(board.rows, moment_ms, 1_700_000_000_000 + moment_ms)
    found: dict[str, object] = json.loads(msgspec.json.encode(said))
    return found


@given(LAGS)
def test_a_bucket_is_never_too_low_and_at_most_a_sixteenth_too_high(lag_ms: int) -> None:
    """What is read of a lag bounds it from above, within 6.25 %, and exactly below 32 ms."""
    shown_ms = upper_ms(bucket_of(lag_ms))
    assert lag_ms <= shown_ms <= lag_ms + lag_ms / 16
    assert shown_ms == lag_ms or lag_ms >= 32


def test_buckets_follow_each_other_without_a_hole() -> None:
    """Each bucket begins where the one before it ends, up to the highest lag that is counted."""
    assert [bucket_of(upper_ms(bucket)) for bucket in range(BUCKETS)] == list(range(BUCKETS))
    assert [bucket_of(upper_ms(bucket) + 1) for bucket in range(BUCKETS - 1)] == list(range(1, BUCKETS))
    assert upper_ms(BUCKETS - 1) == LAG_MS_MAX


@given(st.lists(LAGS, min_size=1, max_size=50), st.lists(LAGS, max_size=50))
def test_histograms_of_several_processes_are_one(first: list[int], second: list[int]) -> None:
    """Added up they are what one process would have counted; a difference takes out what was there before."""
    board = Board(3)
    for row, lags in ((board.row(0), first), (board.row(1), second), (board.row(2), first + second)):
        for lag_ms in lags:
            row.lags.record(Stage.SETTLED, lag_ms)
    one, other, both = (row.lags.read(Stage.SETTLED) for row in board.rows)
    assert one + other == both
    assert (both - other).pairs() == one.pairs()
    assert both.sum_ms == sum(first + second)
    assert Histogram.from_pairs(both.sum_ms, both.pairs()) == both


@given(st.lists(LAGS, min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 0.999, 1.0]))
def test_a_percentile_bounds_that_share_of_the_lags(lags: list[int], share: float) -> None:
    """So many lags are no higher, and no lower one would do."""
    row = Board(1).row(0)
    for lag_ms in lags:
        row.lags.record(Stage.FETCHED, lag_ms)
    (found,) = row.lags.read(Stage.FETCHED).percentiles([share])
    assert found is not None
    wanted = sorted(lags)[max(1, -(-round(share * 1_000) * len(lags) // 1_000)) - 1]
    assert found == upper_ms(bucket_of(wanted))


def test_nothing_counted_has_no_percentile() -> None:
    """Where nothing came there is no lag to tell, not a lag of 0."""
    assert EMPTY.percentiles([0.5, 1.0]) == [None, None]


def test_lags_outlive_the_process_that_counted() -> None:
    """A killed process's lags stay, its successor goes on, stages and rows do not touch each other."""
    board = Board(2)
    for lag_ms in (3, 40):
        pid = os.fork()
        if not pid:
            board.row(1).lags.record_all(Stage.INVOKED, 1_000, {1_000 - lag_ms: 5})
            os._exit(0)
        os.waitpid(pid, 0)
    assert board.row(1).lags.read(Stage.INVOKED).pairs() == [(3, 5), (41, 5)]
    assert board.row(1).snapshot() == board.row(0).snapshot()
    assert board.row(0).lags.read(Stage.INVOKED) == board.row(1).lags.read(Stage.FETCHED) == EMPTY


@given(st.dictionaries(LAGS, st.integers(1, 1_000), max_size=20))
def test_many_are_counted_as_one_by_one(counts: dict[int, int]) -> None:
    """What a batch counts at once is what its keys would count by themselves."""
    board = Board(2)
    board.row(0).lags.record_all(Stage.SETTLED, 0, {-lag_ms: count for lag_ms, count in counts.items()})
    for lag_ms, count in counts.items():
        board.row(1).lags.record(Stage.SETTLED, lag_ms, count)
    assert board.row(0).lags.read(Stage.SETTLED) == board.row(1).lags.read(Stage.SETTLED)


def test_a_clock_that_jumps_breaks_nothing() -> None:
    """A lag that a clock makes negative counts as none, one beyond all bounds as the highest."""
    row = Board(1).row(0)
    row.lags.record_all(Stage.SETTLED, 1_000, {2_000: 1, -(2**40): 1})
    assert row.lags.read(Stage.SETTLED).pairs() == [(0, 1), (LAG_MS_MAX, 1)]


def test_gaps_are_counted_by_their_reason() -> None:
    """Each reason has a count of its own, and all of them together are the gaps."""
    row = Board(1).row(0)
    for reason in (GapReason.DISCONNECTED, GapReason.DISCONNECTED, GapReason.DATASET):
        row.count_gap(reason)
    assert row.get(Counter.GAPS) == sum(row.gaps().values()) == 3
    assert (row.gaps()["disconnected"], row.gaps()["dataset"]) == (2, 1)


def test_the_last_minute_forgets_what_was_before() -> None:
    """Counts and lags of a minute ago are not of the last minute any more, and still of the last hour."""
    board, history = Board(1), History(0)
    row = board.row(0)
    row.add(Counter.RECORDS_DELIVERED, 7)
    row.lags.record(Stage.SETTLED, 900, 7)
    for moment_ms in range(0, 120_000, 1_000):
        described(history, board, moment_ms)
    row.add(Counter.RECORDS_DELIVERED, 3)
    row.lags.record(Stage.SETTLED, 4, 3)
    said: Any = described(history, board, 120_000)
    minute, hour = said["last_minute"], said["last_hour"]
    assert (minute["seconds"], minute["counts"]["records_delivered"]) == (60, 3)
    assert minute["lag_ms"] == {"settled": {"count": 3, "p50": 4, "p90": 4, "p99": 4, "p999": 4, "max": 4}}
    assert (hour["seconds"], hour["counts"]["records_delivered"]) == (120, 10)
    assert hour["lag_ms"]["settled"]["max"] == upper_ms(bucket_of(900))


def test_a_minute_is_kept_for_an_hour() -> None:
    """Each minute has its own counts and lags, and there are no more than an hour has."""
    board, history = Board(1), History(0)
    for moment_ms in range(0, (MINUTES + 5) * 60_000 + 1, 10_000):
        said = described(history, board, moment_ms)
        board.row(0).add(Counter.GAPS, 1)
    minutes = said["minutes"]
    assert isinstance(minutes, list)
    assert len(minutes) == MINUTES
    assert {one["counts"]["gaps"] for one in minutes} == {6}
    assert minutes[0]["lag_ms"] == {}


def test_what_the_status_says_is_the_histogram() -> None:
    """Whoever reads the status has the same lags as the board, and may take differences of them."""
    board, history = Board(1), History(0)
    board.row(0).lags.record(Stage.CAPTURED, 77, 4)
    assert lags_in(described(history, board, 0), "captured") == board.row(0).lags.read(Stage.CAPTURED)
    assert lags_in({}, "captured") == EMPTY
