"""Scenarios, the search, the soak's slope, and a small trial on real parts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest
from click.testing import CliRunner

from benchmarks.drive.keys import Keyspace
from benchmarks.drive.plan import Load, lay_out
from benchmarks.drive.schedule import Arrivals
from benchmarks.lag.check import Verdict
from benchmarks.lag.histogram import Percentiles, merged
from benchmarks.measured.saturation import Search, limit_of, search_rate
from benchmarks.measured.soak import run_soak, slope_per_hour
from benchmarks.measured.trial import Shape, Trial, ground
from benchmarks.scenarios.file import FOLDER, Scenario, ScenarioError, names, read_scenario
from benchmarks.scenarios.scenario import main, recovery_of, run_scenario
from benchmarks.stand.accounting import Accounts, RoleCost, title_of
from benchmarks.stand.harness import wait_until
from benchmarks.stand.watch import Sample


def trial(rate: float, p99_ms: float, *, busy: float = 0.5, fullest: float = 0.5, missing: int = 0) -> Trial:
    return Trial(
        wanted_per_s=rate,
        rate_per_s=rate,
        changes=1_000,
        kept_schedule=True,
        sender_late=Percentiles(),
        lag=Percentiles(1_000, 1, 2, p99_ms, p99_ms, p99_ms),
        stages=[],
        missing=missing,
        verdict=Verdict(10, 0, 0, 0),
        accounts=Accounts([RoleCost("server", 2.0, 0.1)], 1, 1, busy, "invokers", fullest),
        records=1_000,
        invocations=10,
        payload_bytes=100.0,
        seed=1,
    )


@pytest.mark.parametrize("name", names())
def test_every_scenario_is_one(name: str) -> None:
    """Each file of the project is a scenario, with a sentence about it."""
    assert read_scenario(name).about.endswith(".")


def test_the_documented_scenario_is_one(tmp_path: Path) -> None:
    """The file that benchmarks/README.md shows can be run, with a trace that is there."""
    (text,) = re.findall(r"```toml\n(.*?)```", (FOLDER.parent / "README.md").read_text(), re.DOTALL)
    trace, path = tmp_path / "trace.txt", tmp_path / "evening.toml"
    trace.write_text("0.1\n0.2\n")
    path.write_text(text.replace("trace.txt", str(trace)))
    scenario = read_scenario(str(path))
    assert scenario.shape.sink == "dynamodb" and scenario.keyspace.skew == "zipf"
    assert len(lay_out(scenario.load(1))) == 2


def test_there_is_one_for_each_question() -> None:
    """Steady, ramp, saturation, burst, hot keys, large values, outage, mixed types, soak, and the way to a table."""
    wanted = {"steady", "ramp", "saturation", "burst", "hot_keys", "large_values", "outage", "mixed", "soak", "table"}
    assert set(names()) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("about = 1", "Expected `str`"),
        ('about = "a."\nsecond = 1', "second"),
        ('about = "a."\n[mix]\nfields = 1', "fields"),
        ('about = "a."\n[arrivals]\nkind = "never"', "kind"),
        ('about = "a."\n[keyspace]\ncount = 0', "count"),
        ('about = "a."\n[outage]\nfrom_s = 1.0\nseconds = 99.0', "outage"),
        ('about = "a."\nkind = "soak"\n[outage]\nfrom_s = 1.0\nseconds = 2.0', "only a load"),
        ('about = "a."\n[shape]\nsink = "aws"\n[outage]\nfrom_s = 1.0\nseconds = 2.0', "only a load"),
        ('about = "a."\nseconds = 0.0', "more than 0"),
        ('about = "a."\nseconds = -1.0\n[arrivals]\nkind = "poisson"', "more than 0"),
        ('about = "a."\n[search]\nlimit = 100', "limit"),
        ('about = "a."\n[search]\ntries = 0', "tries"),
        ('about = "a."\n[search]\nfrom_rate_per_s = 0.0', "rates"),
        ("about = ", "scenario.toml"),
    ],
)
def test_a_scenario_that_cannot_be_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """What is wrong in a file is told with the file and the setting, by the command in one sentence."""
    path = tmp_path / "scenario.toml"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=says):
        read_scenario(str(path))
    done = CliRunner().invoke(main, [str(path)])
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    with pytest.raises(ScenarioError, match="steady"):
        read_scenario("nonsense")


@pytest.mark.parametrize("limit", [23_000.0, 90_000.0, 19_000.0])
def test_the_search_finds_the_limit(limit: float) -> None:
    """Of a path whose lag leaves the limit at a rate, the search finds that rate from below, as near as it halves."""
    found = search_rate(lambda rate: trial(rate, 10 if rate <= limit else 900), Search(halvings=6, tries=1))
    assert found.rate_per_s <= limit
    assert found.rate_per_s >= limit * 0.93
    assert len(found.trials) <= 12


def test_one_bad_moment_is_no_limit() -> None:
    """A rate that fails once and holds the second time is held; the limit that is named is of one that failed."""
    seen: list[float] = []

    def once_bad(rate: float) -> Trial:
        seen.append(rate)
        is_bad = rate > 60_000 or seen.count(rate) == 1
        return trial(rate, 900 if is_bad else 10, busy=0.99 if rate > 60_000 else 0.1)

    found = search_rate(once_bad, Search(halvings=4, tries=2))
    assert 52_000 <= found.rate_per_s <= 60_000
    assert found.limited_by.startswith("the host")


def test_a_late_sender_is_no_limit_of_its_own() -> None:
    """Where the lag stays within the limit though the sender came late, the rate is held: lag counts from when due."""
    late = msgspec.structs.replace(trial(1, 200), kept_schedule=False)
    found = search_rate(
        lambda rate: msgspec.structs.replace(late, wanted_per_s=rate) if rate <= 40_000 else trial(rate, 900),
        Search(halvings=0),
    )
    assert found.rate_per_s == 40_000


def test_a_stale_key_does_not_hold() -> None:
    """A trial after which a key holds an older value is no rate that holds, however quick it was."""
    stale = msgspec.structs.replace(trial(1, 5), verdict=Verdict(10, 0, 1, 0))
    found = search_rate(
        lambda rate: msgspec.structs.replace(stale, wanted_per_s=rate) if rate > 30_000 else trial(rate, 5),
        Search(halvings=0),
    )
    assert found.rate_per_s == 20_000


def test_changes_that_never_arrive_do_not_hold() -> None:
    """A trial with a change missing is over the limit, however quick the others were."""
    found = search_rate(lambda rate: trial(rate, 1, missing=1 if rate > 30_000 else 0), Search(halvings=3))
    assert found.rate_per_s <= 30_000


def test_what_limits_is_named() -> None:
    """A full host, a full process, and neither are told apart."""
    assert limit_of(trial(1, 900, busy=0.99)).startswith("the host")
    assert "invokers" in limit_of(trial(1, 900, fullest=0.99))
    assert limit_of(trial(1, 900)).startswith("the engine")
    late = msgspec.structs.replace(trial(1, 900), kept_schedule=False)
    assert "sender" in limit_of(late)
    crowded = msgspec.structs.replace(trial(1, 900, busy=0.85), kept_schedule=False)
    assert limit_of(crowded).startswith("the host")


def test_the_slope_of_memory() -> None:
    """Memory that grows by a tenth an hour has that slope, one that swings about a level has none."""
    growing = [Sample(at, 100 + 10 * at / 3_600, 50, 0) for at in range(0, 1_200, 5)]
    assert slope_per_hour(growing) == pytest.approx(0.1, rel=0.02)
    swinging = [Sample(at, 100 + (at // 5 % 2), 50, 0) for at in range(0, 1_200, 5)]
    assert abs(slope_per_hour(swinging)) < 0.01
    spiked = [Sample(at, 500.0 if at == 600 else 100.0, 50, 0) for at in range(0, 1_200, 5)]
    assert slope_per_hour(spiked) == 0


def test_a_soak_is_judged_leg_by_leg(monkeypatch: pytest.MonkeyPatch) -> None:
    """On real parts two legs and their flood lose nothing; their lags add up, and each is told as it ends."""
    monkeypatch.setattr("benchmarks.measured.soak.LEG_S", 1.0)
    monkeypatch.setattr("benchmarks.measured.soak.FLOOD_S", 0.5)
    monkeypatch.setattr("benchmarks.measured.soak.SAMPLE_S", 0.3)
    said: list[tuple[int, int]] = []
    scenario = read_scenario("soak")
    load = msgspec.structs.replace(scenario.load(1, 2.0), arrivals=Arrivals("poisson", rate_per_s=300.0))
    with ground(scenario.shape) as place:
        found = run_soak(place, load, lambda _, leg, legs: said.append((leg, legs)))
    assert said == [(1, 2), (2, 2)]
    assert (found.lost, found.stale, found.invented, found.gaps, found.restarts) == (0, 0, 0, 0, 0)
    assert found.minutes == pytest.approx(2 / 60, abs=0.01)
    assert 400 < found.lag.count < found.changes
    assert found.lag.max_ms >= found.worst_leg.p99_ms > 0
    assert len(found.samples) > 2 and all(one.memory_mib > 10 and one.descriptors > 10 for one in found.samples)


def test_an_outage_is_caught_up(tmp_path: Path) -> None:
    """A function that answers nothing for a second loses no key, and it is told how long it took to catch up."""
    path = tmp_path / "short.toml"
    path.write_text(
        'about = "."\nseconds = 3.0\n[arrivals]\nrate_per_s = 200.0\n[outage]\nfrom_s = 0.5\nseconds = 1.0\n'
    )
    scenario = read_scenario(str(path))
    found = run_scenario(scenario, 1)
    assert isinstance(found, Trial)
    assert found.verdict.is_well and not found.missing
    assert found.lag.max_ms > 500
    assert "after the outage" in recovery_of(scenario, 3.0, found)
    with pytest.raises(ScenarioError, match="a longer load"):
        run_scenario(scenario, 1, 1.0)


@pytest.mark.parametrize("sink", ["stand-in", "dynamodb"])
def test_every_change_is_accounted_for(sink: str) -> None:
    """On real parts each change of a small load has its lag at every stage, and each key is what Redis holds."""
    load = Load(Arrivals("poisson", rate_per_s=300.0), Keyspace(50), seconds=1.0, seed=3)
    with ground(msgspec.convert({"sink": sink, "batch_size": 50}, Shape)) as place:
        found = place.run(load)
    assert found.changes == found.lag.count > 200
    assert found.missing == 0
    assert found.verdict.is_well
    assert found.verdict.keys == 50
    wanted = ["acknowledged", "captured", "fetched", "invoked"] + (["committed"] if sink == "dynamodb" else [])
    assert [one.stage for one in found.stages] == wanted
    assert all(one.lag.count == found.changes for one in found.stages)
    assert found.records <= found.changes
    assert merged([found.histogram]).percentiles() == found.lag
    assert sum(one.changes for one in found.moments) == found.changes
    assert {one.role for one in found.accounts.roles} >= {
        "server",
        "subscribers",
        "invokers",
        "supervisor",
        "function",
        "load",
    }


def test_scenarios_are_where_they_are_looked_for() -> None:
    """The folder is there, and a scenario's defaults are a load that can be laid out."""
    assert FOLDER.is_dir()
    assert Scenario(about="x.").load(1).seconds == 10


def test_a_benchmark_that_is_killed_leaves_nobody_behind(tmp_path: Path) -> None:
    """Server, function and engine end with the benchmark, however that ends."""
    path = tmp_path / "quiet.toml"
    path.write_text('about = "."\nseconds = 60.0\n[arrivals]\nrate_per_s = 10.0\n')
    run = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scenarios.scenario", str(path)],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    found: set[psutil.Process] = set()

    def is_whole() -> bool:
        found.update(psutil.Process(run.pid).children(recursive=True))
        return any("invoker" in title_of(one) for one in found)

    wait_until(is_whole, "the engine runs", 60.0)
    run.kill()
    run.wait()
    wait_until(lambda: not [one for one in found if _lives(one)], "all have ended", 30.0)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
