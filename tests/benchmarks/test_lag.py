"""Lag: histograms that add up, changes that are found by themselves or by a newer value, a check that can fail."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.drive.commands import key_name
from benchmarks.drive.driver import Sent
from benchmarks.drive.plan import Plan
from benchmarks.drive.schedule import Arrivals
from benchmarks.lag.check import arrived, compare, in_table
from benchmarks.lag.histogram import Histogram, merged, percentiles_of
from benchmarks.lag.probe import corrected
from benchmarks.lag.stages import NEVER, Clocks, Received, lags_of, leaves_value
from benchmarks.lag.timeline import bursts_of, left_at_s, recoveries, timeline

MS = 1_000_000
times = st.lists(st.integers(0, 10**12), min_size=1, max_size=200)


@given(st.lists(times, min_size=1, max_size=4))
def test_histograms_add_up_over_processes(parts: list[list[int]]) -> None:
    """The sum of several processes' histograms, encoded and read again, tells what one of everything tells."""
    encoded = []
    for part in parts:
        encoded.append(Histogram.of(np.array(part)).encoded())
    everything = np.concatenate([np.array(part) for part in parts])
    assert merged(encoded).percentiles() == percentiles_of(everything)


def test_percentiles_are_exact_to_three_digits() -> None:
    """Of 1 to 10,000 ms each percentile is where it should be, and nothing is told of nothing."""
    found = percentiles_of(np.arange(1, 10_001) * MS)
    assert found.count == 10_000
    assert found.p50_ms == pytest.approx(5_000, rel=0.001)
    assert found.p99_ms == pytest.approx(9_900, rel=0.001)
    assert found.p999_ms == pytest.approx(9_990, rel=0.001)
    assert found.max_ms == pytest.approx(10_000, rel=0.001)
    assert percentiles_of(np.array([], np.int64)).count == 0


def sent(keys: list[int]) -> Sent:
    """Return changes of these keys, one a ms from 0, each answered after half of one."""
    count = len(keys)
    plan = Plan(np.arange(count) * MS, np.array(keys, np.uint32), np.zeros(count, np.uint8))
    return Sent(plan, 0, np.zeros(count, np.int64), np.full(count, MS // 2), 0.0)


def received(*rows: tuple[int, int, int]) -> Received:
    """Return arrivals (key, number, at ms), captured and fetched before."""
    return Received(
        np.array([(key, number, 0, at - 2, (at - 1) * 1_000, at * MS, (at + 1) * MS) for key, number, at in rows])
    )


def test_each_stage_has_its_lag() -> None:
    """A change that arrives has its time at each stage, from when it was due."""
    lags = lags_of(sent([5, 5, 8]), received((5, 1, 10), (5, 2, 20), (8, 3, 30)), Clocks(0))
    assert {stage: (lag / MS).tolist() for stage, lag in lags.items()} == {
        "acknowledged": [0.5, 0.5, 0.5],
        "captured": [8, 17, 26],
        "fetched": [9, 18, 27],
        "invoked": [10, 19, 28],
        "committed": [11, 20, 29],
    }


def test_a_newer_value_stands_for_an_older_change() -> None:
    """A change that was coalesced into a later one of its key arrived with that; of another key, never."""
    lags = lags_of(sent([5, 5, 8, 9]), received((5, 2, 20), (8, 3, 30)), Clocks(0))
    assert (lags["invoked"][:3] / MS).tolist() == [20, 19, 28]
    assert lags["invoked"][3] == NEVER


def test_the_first_of_several_arrivals_counts() -> None:
    """A value that comes twice arrived the first time; and a newer one that overtook an older brought that along."""
    lags = lags_of(sent([5, 5]), received((5, 1, 40), (5, 1, 30), (5, 2, 20)), Clocks(0))
    assert (lags["invoked"] / MS).tolist() == [20, 19]


def test_the_time_of_a_run_is_told_moment_by_moment() -> None:
    """Each moment has the changes that were due in it, their lag, and when the last of them had arrived."""
    due = np.array([0, 50, 150, 950]) * MS
    found = timeline(due, np.array([10, 20, 30, 5]) * MS, 1.0)
    assert [(one.at_s, one.changes, one.max_ms, one.done_s) for one in found] == [
        (0.0, 2, 20.0, 0.07),
        (0.1, 1, 30.0, 0.18),
        (0.9, 1, 5.0, 0.955),
    ]


def test_recovery_counts_from_the_end_of_what_disturbed() -> None:
    """After a burst it is until the last change over the limit had arrived; where none was over it, no time at all."""
    arrivals = Arrivals("bursts", rate_per_s=1.0, burst_rate_per_s=2.0, burst_s=1.0, every_s=5.0)
    windows = list(bursts_of(arrivals, 10.0))
    assert [(one.from_s, one.ends_s) for one in windows] == [(4.0, 5.0), (9.0, 10.0)]
    assert list(bursts_of(Arrivals(), 10.0)) == []
    due = np.arange(0, 10_000, 10) * MS
    lags = np.where((due >= 4_500 * MS) & (due < 5_200 * MS), 700, 3) * MS
    assert recoveries(timeline(due, lags, 10.0), windows, 250) == [pytest.approx(0.89), 0.0]


def test_a_ramp_tells_where_the_lag_left_the_limit() -> None:
    """The first moment whose p99 is over the limit counts, and none where all are within it."""
    due = np.arange(0, 1_000, 10) * MS
    moments = timeline(due, np.where(due >= 600 * MS, 300, 5) * MS, 1.0)
    assert left_at_s(moments, 250) == pytest.approx(0.6)
    assert left_at_s(moments, 400) is None


def test_clocks_are_brought_together() -> None:
    """What is told in Unix time is moved to the clock of the sender."""
    lags = lags_of(sent([5]), received((5, 1, 10)), Clocks(3 * MS))
    assert lags["captured"][0] == 11 * MS
    assert lags["invoked"][0] == 10 * MS


def test_the_check_finds_what_is_wrong() -> None:
    """A key that is missing, one that is older, one that nobody wrote: each is counted, and a well one is not."""
    truth = {1: 10, 2: 20, 3: 30, 4: 0}
    assert compare(truth, {1: 10, 2: 20, 3: 30}, 30).is_well
    found = compare(truth, {1: 10, 2: 19, 9: 5}, 30)
    assert (found.lost, found.stale, found.invented) == (1, 1, 1)
    assert compare(truth, {1: 10, 2: 20, 3: 99}, 30).invented == 1
    assert compare(truth, {1: 10, 2: 20, 3: 30, 4: 7}, 30).stale == 1


class Scanned:
    """A DynamoDB client whose table holds these (key, number, due); a number of 0 is of a key that is gone."""

    def __init__(self, *rows: tuple[int, int, int]) -> None:
        self.rows = rows

    def get_paginator(self, _: str) -> Scanned:
        return self

    def paginate(self, **_: object) -> list[dict[str, Any]]:
        bodies = [
            {"body": {"S": json.dumps({"n": str(number), "d": str(due)})}} if number else {}
            for _, number, due in self.rows
        ]
        return [
            {
                "Items": [
                    {"id": {"S": key_name(row[0]).decode()}, **body}
                    for row, body in zip(self.rows, bodies, strict=True)
                ]
            }
        ]


def test_what_another_run_left_in_a_table_is_no_arrival() -> None:
    """An item that was due before the run began is not held, though its number is right; one of a gone key is."""
    table = Scanned((1, 10, 500), (2, 20, 2_000), (3, 0, 0))
    assert in_table(table, "t", since_ns=1_000) == {2: 20, 3: 0}
    assert compare({1: 10, 2: 20}, in_table(table, "t", 1_000), 20).lost == 1


def test_a_value_that_is_deleted_next_is_not_waited_for() -> None:
    """A value whose key is deleted by its next command may never be read; one that is set again in between may."""
    kinds = np.array([0, 2, 0, 0, 2, 0, 3, 2], np.uint8)
    keys = np.array([1, 1, 2, 2, 1, 3, 3, 3], np.uint32)
    plan = Plan(np.arange(8) * MS, keys, kinds)
    assert leaves_value(plan).tolist() == [False, False, True, True, False, False, False, False]


def test_a_stall_of_a_probe_counts_for_those_it_held_up() -> None:
    """Of probes that wait for one another a long lag stands for those that would have been sent meanwhile."""
    lags = np.array([10] * 9 + [100]) * MS
    found = corrected(lags, 20 * MS)
    assert (found[10:] / MS).tolist() == [70, 40, 10]
    assert len(corrected(np.array([], np.int64), MS)) == 0


def test_the_last_arrival_is_what_a_destination_holds() -> None:
    """Of several arrivals of a key the last in time counts, not the newest: that is what the check is for."""
    assert arrived(received((5, 2, 20), (5, 1, 30))) == {5: 1}
