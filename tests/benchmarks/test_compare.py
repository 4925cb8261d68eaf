"""Comparison and gate: a true change is found, noise is none, too few runs say nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.judged.compare import against, compare, judge, main
from benchmarks.judged.gate import Baseline, gate, ratios_of
from benchmarks.judged.gate import main as gate_main
from benchmarks.judged.results import ResultsError, write
from benchmarks.stand.harness import Figure, figure, no_figure
from tests.benchmarks.samples import results, runs


def cost(middle: float, seed: int = 1, count: int = 5) -> Figure:
    return figure("engine_cpu_us", "µs", "<= 6", runs(middle, 0.04, count, seed))


def rate(middle: float, seed: int = 1) -> Figure:
    return figure("times_original", "×", ">= 100", runs(middle, 0.04, 5, seed))


def test_a_true_change_is_found() -> None:
    """A fifth more cost is worse, a fifth less better; of a rate it is the other way round."""
    assert judge(cost(5.0), cost(6.0, 2)).word == "worse"
    assert judge(cost(5.0), cost(4.0, 2)).word == "better"
    assert judge(rate(300), rate(360, 2)).word == "better"
    assert judge(rate(300), rate(240, 2)).word == "worse"


@pytest.mark.parametrize("seed", range(2, 22))
def test_noise_is_no_change(seed: int) -> None:
    """Runs of the same thing get no verdict, whatever the noise drew."""
    assert judge(cost(5.0), cost(5.0, seed)).word == "no verdict"


def test_too_few_runs_say_nothing() -> None:
    """With two runs on a side there is no verdict, however far they lie apart."""
    assert judge(cost(5.0), cost(9.0, count=2)).word == "too few runs"


def test_the_interval_holds_the_ratio() -> None:
    """The interval contains what it is of, and widens with the noise."""
    calm = judge(cost(5.0), cost(6.0, 2))
    wild = judge(
        figure("a", "µs", "", runs(5.0, 0.3, 5, 3)),
        figure("a", "µs", "", runs(6.0, 0.3, 5, 4)),
    )
    assert calm.low <= calm.ratio <= calm.high
    assert wild.high - wild.low > calm.high - calm.low


def test_a_reference_takes_the_machine_out() -> None:
    """On a machine of half the speed times double and rates halve; by a reference of the same runs all is as it was."""
    fast = [
        figure("original_events_per_s", "1/s", "", [400, 410, 390]),
        figure("engine_cpu_us", "µs", "<= 6", [5, 5.1, 5]),
    ]
    slow = [
        figure("original_events_per_s", "1/s", "", [200, 205, 195]),
        figure("engine_cpu_us", "µs", "<= 6", [10, 10.2, 10]),
    ]
    one, other = results(fast), results(slow)
    assert compare(one, other)[1].word == "worse"
    (verdict,) = compare(against(one, "original_events_per_s"), against(other, "original_events_per_s"))
    assert verdict.word == "no verdict"
    assert verdict.ratio == pytest.approx(1, rel=0.05)
    with pytest.raises(ResultsError, match="nothing"):
        against(one, "nothing")


def test_a_reference_leaves_ratios_and_bytes_alone() -> None:
    """What the machine's speed does not move is not compared by a reference, nor taken out twice by yardsticks."""
    base = figure("original_events_per_s", "1/s", "", [400, 410, 390])
    told = against(results([base, *measured(1.0, 1), rate(300)]), "original_events_per_s")
    assert [one.name for one in told.figures] == []
    three = [
        figure("engine_cpu_us", "µs", "<= 6", [5, 5, 5], "", [1, 1, 1]),
        figure("times_original", "×", ">= 100", [300, 310, 290]),
        figure("wire_in_bytes", "B", "", [134, 134, 134]),
    ]
    (kept,) = against(results([base, *three]), "original_events_per_s").figures
    assert kept.name == "engine_cpu_us" and kept.yardsticks == []


def test_lags_of_different_loads_get_no_verdict() -> None:
    """The lag at half of saturation is not judged where the two saturated at different rates."""

    def at(saturation: float, lag: float) -> list[Figure]:
        half = figure("half_lag_ms_p99", "ms", "<= 8", runs(lag, 0.02))
        return [figure("saturation_events_per_s", "1/s", "", [saturation]), half]

    words = [compare(results(at(50_000, 8)), results(at(rate, 16)))[1].word for rate in (52_000, 90_000)]
    assert words == ["worse", "another load"]


def test_the_command_compares_files(tmp_path: Path) -> None:
    """Two files are compared figure by figure; one that is none is refused in a sentence."""
    write(results([cost(5.0)]), tmp_path / "a.json")
    write(results([cost(6.0, 2)]), tmp_path / "b.json")
    done = CliRunner().invoke(main, [str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json"])
    assert json.loads(done.output)[0]["word"] == "worse"
    refused = CliRunner().invoke(main, [str(tmp_path / "a.json"), str(tmp_path / "c.json")])
    assert refused.exit_code == 1
    assert refused.output.startswith("Error: ")


def measured(slower: float, seed: int, machine: float = 1.0) -> list[Figure]:
    """Return the figures of a run on a machine whose speed swings, with an engine that is so much slower."""
    yardsticks = [one / machine for one in runs(0.5, 0.4, 5, seed)]
    engine = [by * 12 * slower * noise for by, noise in zip(yardsticks, runs(1.0, 0.02, 5, seed + 50), strict=True)]
    return [figure("engine_cpu_us", "µs", "<= 6", engine, "", yardsticks), figure("ring", "1/s", "", yardsticks)]


def test_yardsticks_take_the_moment_out(tmp_path: Path) -> None:
    """On a machine whose speed swings the times say nothing, and in yardsticks a fifth more is found."""
    before, after = results(measured(1.0, 1)), results(measured(1.2, 2))
    words = {one.name: one.word for one in compare(before, after)}
    assert words["engine_cpu_us"] == "no verdict"
    assert words["engine_cpu_us/yardstick"] == "worse"
    same = {one.name: one.word for one in compare(before, results(measured(1.0, 3)))}
    assert same["engine_cpu_us/yardstick"] == "no verdict"


def test_the_gate_fails_on_a_regression_alone(tmp_path: Path) -> None:
    """A machine of half the speed passes; an engine a quarter slower does not; nor one that was not measured."""
    baseline = Baseline("then", ratios_of(results(measured(1.0, 1))))
    assert gate(baseline, results(measured(1.0, 2, machine=0.5)))[1] == []
    assert gate(baseline, results(measured(1.05, 3)))[1] == []
    (failed,) = gate(baseline, results(measured(1.25, 4)))[1]
    assert "engine_cpu_us" in failed
    other = figure("capture_headroom", "×", ">= 2", runs(2.0, 0.04))
    (missing,) = gate(baseline, results([other]))[1]
    assert "was not measured" in missing
    with pytest.raises(ResultsError, match="without QUICK"):
        ratios_of(results([cost(5.0)]))


def test_the_gate_s_command(tmp_path: Path) -> None:
    """A baseline is made from results, passed by them, failed by slower ones, and asked for where there is none."""
    good, bad, base = (tmp_path / name for name in ("good.json", "bad.json", "base.json"))
    write(results(measured(1.0, 1)), good)
    write(results(measured(1.5, 2)), bad)

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(gate_main, ["--baseline", str(base), *arguments])
        return done.exit_code, done.output

    assert run("--results", str(good))[0] == 1
    assert run("--results", str(good), "--update")[0] == 0
    assert run("--results", str(good))[0] == 0
    code, output = run("--results", str(bad))
    assert code == 1
    assert "engine_cpu_us" in output


def test_what_is_no_figure_is_not_compared(tmp_path: Path) -> None:
    """Where one side has no figure there is no verdict; the gate fails, with the reason that stands in its place."""
    one = results([figure("half_cpu_y", "y", "<= 35", runs(40, 0.02)), cost(5.0)])
    other = results([no_figure("half_cpu_y", "y", "<= 35", "a busy host"), cost(5.0), headroom()])
    assert [verdict.name for verdict in compare(one, other)] == ["engine_cpu_us"]
    baseline = Baseline("then", ratios_of(one))
    assert [ratio.name for ratio in baseline.ratios] == ["half_cpu_y"]
    assert gate(baseline, other)[1] == ["half_cpu_y was not measured (no figure: a busy host)"]
    worse = results([figure("half_cpu_y", "y", "<= 35", runs(60, 0.02))])
    assert "half_cpu_y is 1.5" in gate(baseline, worse)[1][0]


def headroom() -> Figure:
    return figure("capture_headroom", "×", ">= 2", runs(2.0, 0.02))
