from __future__ import annotations

from array import array
from pathlib import Path

import msgspec

from benchmarks.outage.arrivals import Judge, arrivals
from benchmarks.outage.bound import bound_of, total_of
from benchmarks.outage.function import SUFFIX, encode, numbers
from benchmarks.outage.play import MARGIN_S, lag_of, percentiles, within
from benchmarks.outage.report import WIDTH, bar, moments
from benchmarks.outage.sampler import Sample
from engine.config import CaptureSettings, RouteSettings, Settings

MS = 1_000_000


def judged(*pairs: tuple[int, int], keys: int = 4) -> Judge:
    judge = Judge(keys)
    judge.take(number for pair in pairs for number in pair)
    return judge


def sample(at_s: float, phase: str) -> Sample:
    zeros = {name: 0 for name in Sample.__struct_fields__ if name not in {"live_ms_p50", "live_ms_p99"}}
    return msgspec.convert({**zeros, "at_s": at_s, "phase": phase}, Sample, strict=False)


def test_the_judge_sees_a_value_that_came_after_a_newer_one() -> None:
    """An older value after a newer one of its key is counted, and told; another key's order is its own."""
    judge = judged((0, 5), (1, 2), (0, 3))
    assert judge.out_of_order_count == 1
    assert judge.out_of_order == [(0, 3, 5)]


def test_the_judge_tells_values_that_came_twice_from_new_ones() -> None:
    """The same value again is a duplicate, and no disorder."""
    judge = judged((0, 5), (0, 5), (0, 6))
    assert (judge.records, judge.twice, judge.out_of_order_count) == (3, 1, 0)


def test_the_judge_compares_with_what_redis_holds() -> None:
    """A key whose newest arrival is not Redis's value is wrong, missing ones too; a key that is nowhere is not."""
    judge = judged((0, 5), (1, 2))
    assert judge.compare([5, 2, 0, 0]) == (0, [])
    assert judge.compare([5, 3, 7, 0]) == (2, [(1, 3, 2), (2, 7, 0)])


def test_notes_are_read_back_in_the_order_of_time(tmp_path: Path) -> None:
    """What workers noted in files of their own comes back as one sequence."""
    (tmp_path / f"1{SUFFIX}").write_bytes(encode(30, [(1, 2)]) + encode(50, []))
    (tmp_path / f"2{SUFFIX}").write_bytes(encode(10, [(3, 4), (5, 6)]))
    assert [(moment, list(found)) for moment, found in arrivals(tmp_path)] == [
        (10, [3, 4, 5, 6]),
        (30, [1, 2]),
        (50, []),
    ]


def test_a_record_says_its_numbers() -> None:
    """Key and value are told by the numbers in them."""
    assert numbers({"id": "load:0000012", "body": '{"n":"0000000034"}'}) == (12, 34)


def test_a_lag_ends_with_the_first_value_that_is_as_new() -> None:
    """A newer value stands for the older ones of its key; without one the change was lost."""
    came = [(3, 40 * MS), (7, 90 * MS), (7, 95 * MS)]
    assert lag_of(4, came, 80 * MS) == 10.0
    assert lag_of(8, came, 80 * MS) is None


def test_lags_belong_to_the_phase_in_which_they_were_due() -> None:
    """The first moments of a phase belong to none: what was under way then is the one before's."""
    second = 1_000 * MS
    due = array("Q", [0, round(MARGIN_S * second), 5 * second, 9 * second])
    assert within(due, [1.0, 2.0, None, 4.0], 0, 9 * second) == [2.0]
    assert percentiles([3.0, 1.0, 2.0]) == {"p50": 2.0, "p99": 3.0, "max": 3.0}
    assert percentiles([]) == {}


def test_the_bound_grows_with_every_setting_that_bounds_memory() -> None:
    """Each setting that lets the engine hold more raises the bound, and what was measured before the load is in it."""
    routes = (RouteSettings("a", "f"), RouteSettings("b", "f"))
    settings = Settings(routes=routes)
    low = total_of(bound_of(settings, 12, 50.0))
    larger = msgspec.structs.replace(settings, capture=CaptureSettings(dirty_keys_max=5_000_000))
    assert total_of(bound_of(larger, 12, 50.0)) > low > 50.0
    assert total_of(bound_of(settings, 12, 60.0)) == low + 10.0
    assert total_of(bound_of(settings, 500, 50.0)) > low


def test_a_curve_keeps_its_peak() -> None:
    """However many samples there are, the highest is seen."""
    values = [1.0] * 1_000 + [100.0] + [1.0] * 1_000
    curve = bar(values)
    assert len(curve) <= WIDTH
    assert curve.count("█") == 1
    assert bar([]) == bar([0.0]) == ""


def test_each_phase_shows_its_first_and_its_last_moment() -> None:
    """A table of few rows holds the ends of every phase."""
    samples = [sample(second, "before" if second < 20 else "outage") for second in range(100)]
    shown = [one.at_s for one in moments(samples)]
    assert {0, 19, 20, 99} <= set(shown)
    assert len(shown) < 20
