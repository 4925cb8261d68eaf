"""The model: the law is found again, the queue is as the books say, and a plan behaves as plans must."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.capacity.assumed import settings_text
from benchmarks.capacity.calibration import Calibration
from benchmarks.capacity.command import main
from benchmarks.capacity.hosts import BUSY_MAX, Work, cheapest, effective
from benchmarks.capacity.plan import Deployment, Impossible, Wish, deploy
from benchmarks.capacity.prices import FILE, PricesError, read_prices
from benchmarks.capacity.queueing import distinct_share, erlang_c, wait_ms
from benchmarks.capacity.scans import plan_scans
from benchmarks.capacity.usl import Unidentifiable, Usl, fit
from engine.config import RouteSettings, Settings
from engine.settings.file import load_settings

ROOT = Path(__file__).parents[2]
PRICES = read_prices(ROOT / FILE)
KNOWN = Calibration()

laws = st.builds(Usl, rate=st.floats(1_000, 1_000_000), contention=st.floats(0, 0.2), coherency=st.floats(0, 0.005))


@given(laws)
def test_a_law_is_found_again(law: Usl) -> None:
    """From what a law says of 1 to 16, the same law is found."""
    found = fit([(n, law.throughput(n)) for n in (1, 2, 4, 8, 16)])
    assert found.rate == pytest.approx(law.rate, rel=1e-6)
    assert found.contention == pytest.approx(law.contention, abs=1e-6)
    assert found.coherency == pytest.approx(law.coherency, abs=1e-6)


@given(laws, st.integers(0, 1_000))
@settings(max_examples=60)
def test_noise_moves_a_law_little(law: Usl, seed: int) -> None:
    """With errors of 1 % in what was measured, what the found law says of 8 is within 5 %."""
    noise = np.random.default_rng(seed).normal(1, 0.01, 8)
    counts = (1, 2, 3, 4, 6, 8, 12, 16)
    found = fit([(n, law.throughput(n) * part) for n, part in zip(counts, noise, strict=True)])
    assert found.contention >= 0
    assert found.coherency >= 0
    assert found.throughput(8) == pytest.approx(law.throughput(8), rel=0.05)


def test_a_law_of_too_few_points_is_none() -> None:
    """Two counts do not tell three unknowns, however often they were measured."""
    with pytest.raises(Unidentifiable, match="3 different counts"):
        fit([(1, 100.0), (2, 180.0), (2, 185.0)])


def test_the_peak_is_where_more_make_it_slower() -> None:
    """Beyond the peak the law falls; without coherency there is none."""
    law = Usl(1_000, 0.05, 0.01)
    assert law.throughput(law.peak) > law.throughput(law.peak * 1.2)
    assert law.throughput(law.peak) > law.throughput(law.peak * 0.8)
    assert Usl(1_000, 0.05, 0.0).peak == math.inf


def test_erlang_is_as_the_tables_say() -> None:
    """For one server the chance to wait is its utilization; for 10 with a load of 8 it is 0.409."""
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(10, 8.0) == pytest.approx(0.409, abs=0.001)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.8), (4, 3.2)])
def test_the_wait_is_that_of_a_simulated_queue(servers: int, load: float) -> None:
    """The 99th percentile of the wait in a simulation of M/M/n is what the formula says, within a tenth."""
    chance = np.random.default_rng(5)
    arrivals = np.cumsum(chance.exponential(1 / (load * 1_000), 400_000))
    takes = chance.exponential(0.001, len(arrivals))
    free = np.zeros(servers)
    waits = np.empty(len(arrivals))
    for place, (moment, work) in enumerate(zip(arrivals, takes, strict=True)):
        first = free.argmin()
        waits[place] = max(0.0, free[first] - moment)
        free[first] = moment + waits[place] + work
    told = wait_ms(servers, load * 1_000, 1.0, 99)
    assert told == pytest.approx(np.percentile(waits, 99) * 1_000, rel=0.1)
    assert wait_ms(servers, servers * 1_000, 1.0, 99) == math.inf


@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.2])
def test_coalescing_is_that_of_a_simulation(exponent: float) -> None:
    """The share of distinct keys among a window's changes is what drawing them shows, within 3 %."""
    keys, changes = 5_000, 20_000
    weights = np.arange(1, keys + 1) ** -exponent
    drawn = np.random.default_rng(2).choice(keys, changes, p=weights / weights.sum())
    assert distinct_share(changes, keys, 1.0, exponent) == pytest.approx(len(np.unique(drawn)) / changes, rel=0.03)


wishes = st.builds(
    Wish,
    rate_per_s=st.floats(1, 200_000),
    keys=st.floats(1, 1e8),
    value_bytes=st.floats(1, 20_000),
    lag_ms=st.floats(15, 5_000),
    skew=st.sampled_from([0.0, 0.9]),
)


def plan_or_none(wish: Wish) -> Deployment | None:
    try:
        return deploy(wish, KNOWN, PRICES)
    except Impossible as refused:
        assert len(str(refused)) > 20
        return None


@given(wishes, st.floats(1.05, 10))
@settings(max_examples=200, deadline=None)
def test_more_load_never_costs_less(wish: Wish, factor: float) -> None:
    """With a higher rate a plan has no fewer write units, no lower cost of those, and a server that is used more."""
    small = plan_or_none(wish)
    large = plan_or_none(msgspec.structs.replace(wish, rate_per_s=wish.rate_per_s * factor))
    assume(small is not None and large is not None)
    assert small is not None and large is not None
    assert large.write_units_per_s >= small.write_units_per_s * 0.999
    assert large.costs.write_units >= small.costs.write_units * 0.999
    assert large.server.busy_without > small.server.busy_without


works = st.builds(
    Work,
    capture_cores=st.floats(0.01, 8),
    delivery_cores=st.floats(0.01, 40),
    concurrency=st.integers(1, 400),
    network_gbit_s=st.floats(0.001, 20),
    keys=st.floats(1, 1e8),
)
known_laws = st.builds(
    Calibration, shards_usl=st.none() | laws, invokers_usl=st.none() | laws, waiting_key_bytes=st.floats(100, 400)
)


@given(works, known_laws, st.floats(1, 3))
@settings(max_examples=300, deadline=None)
def test_more_work_never_takes_cheaper_hosts(work: Work, known: Calibration, factor: float) -> None:
    """Hosts that do more work could do less: the cheapest for more never cost less, and no process is overloaded."""
    more = Work(*(factor * part for part in work[:2]), math.ceil(factor * work.concurrency), *work[3:])
    small, large = cheapest(work, known, PRICES.hosts), cheapest(more, known, PRICES.hosts)
    assume(small is not None)
    assert small is not None
    assert large is None or large.hour >= small.hour
    assert small.hosts * effective(known.shards_usl, small.shards) * BUSY_MAX >= work.capture_cores * (1 - 1e-9)
    assert small.hosts * effective(known.invokers_usl, small.invokers) * BUSY_MAX >= work.delivery_cores * (1 - 1e-9)


def test_contention_takes_more_processes_and_then_more_hosts() -> None:
    """What one host's processes lose to each other is made up by more of them; where they only lose, by more hosts."""
    work = Work(0.5, 6.0, 1, 0.1, 1e6)
    free = cheapest(work, KNOWN, PRICES.hosts)
    slowed = cheapest(work, Calibration(invokers_usl=Usl(1.0, 0.05, 0.0)), PRICES.hosts)
    peaked = cheapest(work, Calibration(invokers_usl=Usl(1.0, 0.05, 0.1)), PRICES.hosts)
    assert free is not None and slowed is not None and peaked is not None
    assert slowed.hosts * slowed.invokers > free.hosts * free.invokers
    assert peaked.hosts > slowed.hosts
    assert peaked.invokers <= Usl(1.0, 0.05, 0.1).peak + 1


def test_a_lower_percentile_of_the_idle_lag_is_lower() -> None:
    """The idle lag goes through the two percentiles that were measured, and grows beyond them."""
    known = Calibration(idle_lag_ms=1.0, idle_lag_ms_p99=5.0)
    assert known.idle_ms(50) == pytest.approx(1.0)
    assert known.idle_ms(99) == pytest.approx(5.0)
    assert 1.0 < known.idle_ms(90) < 5.0 < known.idle_ms(99.9)


@given(wishes)
@settings(max_examples=200, deadline=None)
def test_a_plan_keeps_its_promises(wish: Wish) -> None:
    """No more is delivered than changes, the lag is within the goal, and nothing breaks below the wanted rate."""
    plan = plan_or_none(wish)
    assume(plan is not None)
    assert plan is not None
    assert plan.delivered_per_s <= wish.rate_per_s * (1 + 1e-9)
    assert plan.lag_ms <= wish.lag_ms
    assert 1 <= plan.records_per_invocation <= 500
    assert plan.breaks_first.rate_per_s > wish.rate_per_s
    assert plan.host.cores >= plan.shards + plan.invokers
    assert plan.cores <= plan.hosts * plan.host.cores * BUSY_MAX
    assert plan.server.busy_with <= 0.8


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        (Wish(1_000, 1_000, lag_ms=2), "one change alone takes"),
        (Wish(900_000, 1e7), "its one thread"),
        (Wish(0, 1_000), "rate_per_s is 0"),
        (Wish(10, 10, percentile=100), "percentile"),
        (Wish(10, 10, value_bytes=1e6), "400 KB"),
    ],
)
def test_what_cannot_be_is_refused_with_why(wish: Wish, says: str) -> None:
    """A wish that no deployment fulfils is refused by the part that it fails at."""
    with pytest.raises(Impossible, match=says):
        deploy(wish, KNOWN, PRICES)


def test_the_command_answers(tmp_path: Path) -> None:
    """The command answers by the documented figures, says that they are those, and refuses in a sentence."""
    prices = str(ROOT / FILE)
    common = ["--keys", "2e6", "--from", str(tmp_path / "none.json"), "--prices", prices]
    done = CliRunner().invoke(main, ["--rate", "50000", "--bytes", "400", *common])
    assert done.exit_code == 0, done.output
    assert "run make bench" in done.output
    told = json.loads(CliRunner().invoke(main, ["--rate", "50000", "--json", *common]).output)
    assert told["plan"]["shards"] >= 1
    refused = CliRunner().invoke(main, ["--rate", "5e6", *common])
    assert refused.exit_code == 1
    assert refused.output.startswith("Error: ")
    assert "Traceback" not in refused.output


def test_prices_that_cannot_be_are_refused(tmp_path: Path) -> None:
    """A price that is missing, or a word that is none, is told with its place."""
    path = tmp_path / "prices.toml"
    path.write_text((ROOT / FILE).read_text().replace("gb_second", "gb_seconds"))
    with pytest.raises(PricesError, match="lambda"):
        read_prices(path)
    with pytest.raises(PricesError, match="can't be read"):
        read_prices(tmp_path / "none")


@pytest.mark.parametrize("rate", [1_000, 50_000, 120_000])
def test_assumed_settings_are_taken(rate: float, tmp_path: Path) -> None:
    """What a plan says to paste is a settings file that the engine takes, with as many invocations as were planned.

    What it does not change is the engine's default.
    """
    try:
        plan = deploy(Wish(rate, 2_000_000, window_s=0.01), KNOWN, PRICES)
    except Impossible as error:
        pytest.skip(str(error))
    file = tmp_path / "engine.toml"
    name = 'name = "r"\nfunction = "arn:aws:lambda:eu-west-1:123456789012:function:f"\n'
    file.write_text(settings_text(plan).replace("ordinal/", "0/") + "\n" + name)
    found = load_settings(str(file), {"HOME": "/"}, {})
    (route,) = found.routes
    assert (found.capture.shards, found.delivery.invokers) == (plan.shards, plan.invokers)
    assert plan.hosts * plan.invokers * route.parallelization_factor >= plan.concurrency
    assert route.maximum_batching_window_in_seconds == 0.01
    default = Settings()
    assert found.ring == default.ring
    assert found.capture.dirty_keys_max == default.capture.dirty_keys_max
    assert found.delivery.waiting_keys_max == default.delivery.waiting_keys_max
    assert found.delivery.payload_bytes_max == default.delivery.payload_bytes_max
    assert route.batch_size == RouteSettings("r", "f").batch_size


def test_the_command_prints_them() -> None:
    """The settings stand below the table, and in the JSON."""
    options = ["--rate", "5000", "--keys", "100000", "--from", "nowhere.json", "--prices", str(ROOT / FILE)]
    assert "parallelization_factor = " in CliRunner().invoke(main, options).output
    told = json.loads(CliRunner().invoke(main, [*options, "--json"]).output)
    assert "parallelization_factor = " in told["settings"]


@given(st.floats(1_000, 1e8), st.floats(1, 86_400))
def test_scans_cost_what_their_keys_and_their_age_ask_for(keys: float, period_s: float) -> None:
    """Twice the age is half the pace; twice the keys twice of everything."""
    once = plan_scans(keys, period_s)
    assert plan_scans(keys, 2 * period_s).server_share == pytest.approx(once.server_share / 2)
    assert plan_scans(2 * keys, period_s).memory_mib == pytest.approx(2 * once.memory_mib)
    assert once.keys_per_s * period_s >= keys


def test_the_plan_knows_scans(tmp_path: Path) -> None:
    """A pace, and what it takes, for people and for scripts."""
    command = ["--rate", "1000", "--keys", "1000000", "--scan-period-s", "300", "--from", str(tmp_path / "none")]
    shown = CliRunner().invoke(main, [*command, "--prices", str(ROOT / FILE)])
    assert "4,167 keys/s" in shown.output, shown.output
    told = json.loads(CliRunner().invoke(main, [*command, "--prices", str(ROOT / FILE), "--json"]).output)
    assert told["scan"]["reads_a_day"] == 288_000_000
