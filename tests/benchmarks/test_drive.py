"""The load: when commands are due, which keys they change, what they say, and what a sender tells of itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import hiredis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.drive import commands, keys, schedule
from benchmarks.drive.commands import BadMix, Mix
from benchmarks.drive.driver import Sent, drive
from benchmarks.drive.keys import BadKeyspace, Keyspace
from benchmarks.drive.plan import BadLoad, Load, Plan, lay_out, shares_of
from benchmarks.drive.schedule import NS, Arrivals, BadArrivals
from benchmarks.lag.check import in_redis
from engine.sandbox.valkey import ValkeyServer

ALL = [
    Arrivals("constant", rate_per_s=300.0),
    Arrivals("poisson", rate_per_s=300.0),
    Arrivals("ramp", from_rate_per_s=0.0, rate_per_s=600.0),
    Arrivals("bursts", rate_per_s=100.0, burst_rate_per_s=1_100.0, burst_s=1.0, every_s=5.0),
]


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("arrivals", ALL, ids=lambda one: one.kind)
def test_so_many_come_as_were_asked_for(arrivals: Arrivals) -> None:
    """Each kind brings its mean of 300 a second over 20 seconds, in order, within the time."""
    offsets = schedule.offsets_of(arrivals, 20.0, rng())
    assert len(offsets) == pytest.approx(6_000, rel=0.05)
    assert np.all(np.diff(offsets) >= 0)
    assert offsets[0] >= 0
    assert offsets[-1] < 20 * NS


def test_a_constant_rate_is_even() -> None:
    """Commands of a constant rate are all as far from each other."""
    gaps = np.diff(schedule.offsets_of(Arrivals("constant", rate_per_s=1_000.0), 5.0, rng()))
    assert gaps.max() - gaps.min() <= 1


def test_a_ramp_grows() -> None:
    """In the last quarter of a ramp from nothing come seven times as many as in the first."""
    offsets = schedule.offsets_of(Arrivals("ramp", from_rate_per_s=0.0, rate_per_s=2_000.0), 8.0, rng())
    first, last = np.sum(offsets < 2 * NS), np.sum(offsets >= 6 * NS)
    assert last / first == pytest.approx(7, rel=0.02)


def test_bursts_are_where_they_belong() -> None:
    """A burst of a second every five stands at the end of the five, and holds what it should."""
    offsets = schedule.offsets_of(ALL[3], 10.0, rng())
    inside = np.sum((offsets % (5 * NS)) >= 4 * NS)
    assert inside == pytest.approx(2_200, abs=2)


def test_a_trace_is_replayed(tmp_path: Path) -> None:
    """What was recorded is due when it was, and what lies beyond the run is left out."""
    (tmp_path / "trace").write_text("0.5\n0.5\n1.25\n9\n")
    offsets = schedule.offsets_of(Arrivals("trace", trace_file=str(tmp_path / "trace")), 5.0, rng())
    assert offsets.tolist() == [NS // 2, NS // 2, NS * 5 // 4]


@pytest.mark.parametrize(
    ("arrivals", "says"),
    [
        (Arrivals("constant", rate_per_s=0.0), "rate_per_s"),
        (Arrivals("bursts", rate_per_s=10.0, burst_rate_per_s=5.0), "burst_rate_per_s"),
        (Arrivals("bursts", rate_per_s=10.0, burst_rate_per_s=50.0, burst_s=9.0), "burst_s"),
        (Arrivals("trace", trace_file="/nowhere"), "can't be read"),
    ],
)
def test_arrivals_that_cannot_be_are_refused(arrivals: Arrivals, says: str) -> None:
    """A schedule that makes no sense is an error that names the setting."""
    with pytest.raises(BadArrivals, match=says):
        schedule.offsets_of(arrivals, 1.0, rng())


def test_a_trace_that_goes_back_is_refused(tmp_path: Path) -> None:
    """A trace whose times go back is an error, not another load."""
    (tmp_path / "trace").write_text("2\n1\n")
    with pytest.raises(BadArrivals, match="never go back"):
        schedule.read_trace(str(tmp_path / "trace"), 5.0)


def test_zipf_has_zipf_s_shares() -> None:
    """With exponent 1 over 1,000 keys the most frequent one has 1/H(1000) of all, twice the second."""
    picked = Counter(keys.pick(Keyspace(1_000, "zipf", 1.0), 400_000, rng()).tolist())
    (_, first), (_, second) = picked.most_common(2)
    harmonic = sum(1 / rank for rank in range(1, 1_001))
    assert first / 400_000 == pytest.approx(1 / harmonic, rel=0.03)
    assert first / second == pytest.approx(2, rel=0.05)


def test_uniform_is_uniform_and_each_is_each() -> None:
    """Uniform keys are all about as frequent; ``each`` takes every key before one comes again."""
    picked = np.bincount(keys.pick(Keyspace(100), 100_000, rng()), minlength=100)
    assert picked.min() > 850
    assert keys.pick(Keyspace(3, "each"), 7, rng()).tolist() == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(BadKeyspace, match="count"):
        keys.pick(Keyspace(0), 1, rng())


@given(st.integers(0, 10**9 - 1), st.integers(1, 10**12 - 1), st.integers(0, 10**18), st.integers(3, 9))
def test_commands_are_commands(key: int, number: int, due: int, fields: int) -> None:
    """Each command is RESP with lengths that are true, and a hash has the fields and bytes that were asked for."""
    mix = Mix(hset=1, string=1, delete=1, expire=1, fields=fields, value_bytes=200)
    for kind, template in commands.templates(mix).items():
        reader = hiredis.Reader()
        reader.feed(template.text % (key, number, due)[: template.arity])
        words = reader.gets()
        assert reader.gets() is False
        assert commands.key_number(words[1].decode()) == key
        if kind == "hset":
            assert len(words) == 2 + 2 * fields
            assert sum(map(len, words[3::2])) == 200
            assert (int(words[3]), int(words[5])) == (number, due)


@pytest.mark.parametrize("mix", [Mix(fields=1), Mix(fields=2, value_bytes=99), Mix(value_bytes=3), Mix(hset=0.0)])
def test_a_mix_that_cannot_be_is_refused(mix: Mix) -> None:
    """Too few fields, bytes that do not fit, or nothing to send, is an error."""
    with pytest.raises(BadMix):
        commands.check(mix)


def test_the_same_seed_is_the_same_load() -> None:
    """A seed names a load: times, keys and kinds; another seed is another one."""
    load = Load(Arrivals("poisson", rate_per_s=500.0), Keyspace(100), Mix(delete=0.2), 2.0, 3)
    one, same = lay_out(load), lay_out(load)
    other = lay_out(Load(load.arrivals, load.keyspace, load.mix, 2.0, 4))
    assert np.array_equal(one.offsets, same.offsets)
    assert np.array_equal(one.key_numbers, same.key_numbers)
    assert np.array_equal(one.kinds, same.kinds)
    assert not np.array_equal(one.offsets, other.offsets)


def test_senders_share_a_load() -> None:
    """Each change is one sender's, all of a key's are the same one's, in order; and the load stays what it was."""
    plan = lay_out(Load(Arrivals(rate_per_s=2_000.0), Keyspace(50), seconds=1.0, senders=3))
    alone = lay_out(Load(Arrivals(rate_per_s=2_000.0), Keyspace(50), seconds=1.0))
    assert np.array_equal(plan.key_numbers, alone.key_numbers)
    places = shares_of(plan, 3)
    assert sorted(np.concatenate(places).tolist()) == list(range(2_000))
    assert all(np.all(np.diff(one) > 0) for one in places)
    owned = [set(plan.key_numbers[one].tolist()) for one in places]
    assert owned[0].isdisjoint(owned[1]) and owned[1].isdisjoint(owned[2]) and owned[0].isdisjoint(owned[2])
    with pytest.raises(BadLoad, match="senders"):
        lay_out(Load(senders=0))


def test_a_sender_that_was_late_says_so() -> None:
    """A run in which more than one in a thousand was late is told to be of another load than was asked for."""
    plan = Plan(np.zeros(1_000, np.int64), np.zeros(1_000, np.uint32), np.zeros(1_000, np.uint8))
    late = np.zeros(1_000, np.int64)
    late[:1] = 50_000_000
    assert Sent(plan, 0, late, late, 0.1).kept_schedule
    late[:2] = 50_000_000
    assert not Sent(plan, 0, late, late, 0.1).kept_schedule


@pytest.mark.parametrize("senders", [1, 3])
def test_what_is_sent_is_in_the_server(senders: int, tmp_path: Path) -> None:
    """Every command reaches a real server, each key holds the number of its last one, and all have their times."""
    with ValkeyServer() as server:
        load = Load(Arrivals(rate_per_s=5_000.0), Keyspace(500), Mix(hset=3, string=1, delete=1), 1.0, 2, senders)
        sent = drive(server.port, load, tmp_path)
        held = in_redis(server.port, sent.plan)
    last: dict[int, int] = {}
    for number, (key, kind) in enumerate(zip(sent.plan.key_numbers.tolist(), sent.plan.kinds.tolist(), strict=True), 1):
        last[key] = 0 if kind == 2 else number
    assert len(sent.plan) == 5_000
    assert np.all(sent.answered_ns > sent.late_ns)
    assert np.all(sent.late_ns >= 0)
    assert sent.cpu_s > 0 and sent.switches > 0
    assert held == last
