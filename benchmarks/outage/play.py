"""The outage itself: load, cut, heal, work off, judge."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from typing import Any

import msgspec

from benchmarks.outage.arrivals import Judge, arrivals
from benchmarks.outage.bound import Part, bound_of, total_of
from benchmarks.outage.load import LiveWriter, LoadWriter, read_load
from benchmarks.outage.sampler import Sample, Sampler, memory_of
from benchmarks.outage.scene import LIVE, LOAD, Scene, scene

LIVE_KEYS = 1_000
LIVE_RATE = 200.0
KEY_BYTES = len("load:0000000")
WAIT_S_MAX = 600.0
MARGIN_S = 2.0
"""What is in flight when a phase begins or ends belongs to neither."""


class Plan(msgspec.Struct, frozen=True):
    """How long, how many, how fast: ``rate`` is that of the load, changes a second, all the time."""

    outage_s: float
    before_s: float = 20.0
    after_s: float = 10.0
    keys: int = 500_000
    rate: float = 30_000.0
    seed: int = 1


class Result(msgspec.Struct):
    """What was seen, and what is wrong with it; ``problems`` is empty if the engine kept its word."""

    plan: Plan
    samples: list[Sample]
    bound: list[Part]
    bound_mib: float
    memory_mib_max: float
    backlog_keys_max: int
    backlog_bytes_max: int
    written: int
    outage_written: int
    distinct_keys: int
    gaps: int
    worked_off_s: float
    records: int
    twice: int
    out_of_order: int
    wrong: int
    live_changes: int
    live_lost: int
    live_ms: dict[str, dict[str, float]]
    problems: list[str]


def play(plan: Plan, tell: Callable[[str, float], None]) -> Result:
    """Run it all; ``tell`` hears of the phase, and how far it has come (0 to 1)."""
    with scene() as one:
        base_mib = sum(memory_of(one.engine.pid).values())
        load = LoadWriter(one.redis_port, plan.keys, plan.seed)
        live = LiveWriter(one.redis_port, LIVE_RATE, LIVE_KEYS)
        sampler = Sampler(one.engine.pid, one.status_file, one.backlog, one.redis_port, lambda: load.written)
        sampler.start()
        marks: dict[str, tuple[int, int]] = {}

        def spend(phase: str, seconds: float) -> None:
            sampler.phase = phase
            began_s = time.monotonic()
            while (passed_s := time.monotonic() - began_s) < seconds:
                tell(phase, passed_s / seconds)
                time.sleep(min(0.5, seconds - passed_s))
                _ = sampler.newest
            marks[phase] = (round(began_s * 1e9), time.monotonic_ns())

        load.set_rate(plan.rate)
        spend("before", plan.before_s)
        sampler.outage_began_s, written_before = time.monotonic(), load.written
        one.begin_outage()
        spend("outage", plan.outage_s)
        outage_written = load.written - written_before
        one.end_outage()
        healed_s = time.monotonic()
        _work_off(sampler, tell, marks)
        worked_off_s = time.monotonic() - healed_s
        spend("after", plan.after_s)
        load.stop()
        due, answered = live.stop()
        _wait_settled(sampler)
        sampler.stop()
        status = one.stop()
        result = _result(plan, one, sampler.samples, base_mib, load.written, marks, due, answered)
        result.outage_written, result.worked_off_s = outage_written, round(worked_off_s, 1)
        if status:
            result.problems.append(f"the engine was drained, and exited with {status}")
        return result


def _work_off(sampler: Sampler, tell: Callable[[str, float], None], marks: dict[str, tuple[int, int]]) -> None:
    """Wait until nothing is on disk any more."""
    sampler.phase, began_s = "recovery", time.monotonic()
    newest = sampler.newest
    assert newest is not None
    first, seen = max(1, newest.backlog_keys), len(sampler.samples) + 2
    while len(sampler.samples) < seen or sampler.samples[-1].backlog_keys:
        _ = sampler.newest
        if time.monotonic() - began_s > WAIT_S_MAX:
            raise TimeoutError(
                f"after {WAIT_S_MAX:g} s there are still {sampler.samples[-1].backlog_keys} keys on disk"
            )
        tell("recovery", 1 - sampler.samples[-1].backlog_keys / first)
        time.sleep(0.2)
    marks["recovery"] = (round(began_s * 1e9), time.monotonic_ns())


def _wait_settled(sampler: Sampler) -> None:
    """Wait until two samples in a row have nothing on its way."""
    sampler.phase, began_s, from_here = "settling", time.monotonic(), len(sampler.samples)
    while time.monotonic() - began_s < WAIT_S_MAX:
        last = sampler.samples[from_here + 1 :][-2:]
        if len(last) == 2 and not any(_waiting(sample) for sample in last):
            return
        time.sleep(0.2)
        _ = sampler.newest
    raise TimeoutError(f"nothing was written for {WAIT_S_MAX:g} s, and there is still something on its way")


def _waiting(sample: Sample) -> int:
    return sample.backlog_keys + sample.dirty_keys + sample.keys_waiting + sample.keys_in_flight


def _result(
    plan: Plan,
    one: Scene,
    samples: list[Sample],
    base_mib: float,
    written: int,
    marks: dict[str, tuple[int, int]],
    due: array[int],
    answered: array[int],
) -> Result:
    judge = Judge(plan.keys)
    for _, numbers in arrivals(one.notes(LOAD)):
        judge.take(numbers)
    wrong, examples = judge.compare(read_load(one.redis_port, plan.keys))
    lags = live_lags(one, due, answered)
    lost = sum(1 for lag in lags if lag is None)
    _note_live(samples, marks, due, lags)
    bound = bound_of(one.settings, KEY_BYTES, base_mib)
    result = Result(
        plan=plan,
        samples=samples,
        bound=bound,
        bound_mib=total_of(bound),
        memory_mib_max=max(sample.memory_mib for sample in samples),
        backlog_keys_max=max(sample.backlog_keys for sample in samples),
        backlog_bytes_max=max(sample.backlog_bytes for sample in samples),
        written=written,
        outage_written=0,
        distinct_keys=plan.keys,
        gaps=samples[-1].gaps,
        worked_off_s=0.0,
        records=judge.records,
        twice=judge.twice,
        out_of_order=judge.out_of_order_count,
        wrong=wrong,
        live_changes=len(due),
        live_lost=lost,
        live_ms={phase: percentiles(within(due, lags, *marks[phase])) for phase in marks},
        problems=[],
    )
    result.problems = problems_of(result, judge.out_of_order, examples)
    return result


def problems_of(result: Result, disordered: list[Any], examples: list[Any]) -> list[str]:
    """Return what the engine promised and did not keep."""
    checks = [
        (result.memory_mib_max > result.bound_mib, f"memory came to {result.memory_mib_max} MiB, over the bound"),
        (not result.backlog_keys_max, "nothing came into the backlog: the outage was none"),
        (result.backlog_keys_max > result.distinct_keys, "the backlog held more entries than there are keys"),
        (bool(result.out_of_order), f"values came after newer ones: (key, value, newer) {disordered[:3]}"),
        (
            bool(result.wrong),
            f"{result.wrong} keys' last arrival is not Redis's value: (key, Redis, ours) {examples[:3]}",
        ),
        (bool(result.live_lost), f"{result.live_lost} changes of the healthy route never arrived"),
    ]
    return [text for is_wrong, text in checks if is_wrong]


def live_lags(one: Scene, due: array[int], answered: array[int]) -> list[float | None]:
    """Return for each change of the healthy route ms from its being due until it, or a newer one, arrived."""
    came: dict[int, list[tuple[int, int]]] = {}
    for moment_ns, numbers in arrivals(one.notes(LIVE)):
        flat = iter(numbers)
        for key, value in zip(flat, flat, strict=True):
            came.setdefault(key, []).append((value, moment_ns))
    return [lag_of(number, came.get(number % LIVE_KEYS, []), due_ns) for number, due_ns in enumerate(due, 1)]


def lag_of(number: int, came: list[tuple[int, int]], due_ns: int) -> float | None:
    """Return ms until a value of this number or a newer one first came; None if none did."""
    moments = [moment_ns for value, moment_ns in came if value >= number]
    return (min(moments) - due_ns) / 1e6 if moments else None


def within(due: array[int], lags: list[float | None], began_ns: int, ended_ns: int) -> list[float]:
    """Return the lags of the changes that were due in this time, but for its first moments."""
    from_ns = began_ns + round(MARGIN_S * 1e9)
    return [
        lag for moment_ns, lag in zip(due, lags, strict=True) if lag is not None and from_ns <= moment_ns < ended_ns
    ]


def percentiles(lags: list[float]) -> dict[str, float]:
    """Return p50, p99 and the longest, in ms; nothing of nothing."""
    if not lags:
        return {}
    lags = sorted(lags)
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(lags[min(len(lags) - 1, int(len(lags) * share))], 2) for name, share in at.items()}


def _note_live(
    samples: list[Sample], marks: dict[str, tuple[int, int]], due: array[int], lags: list[float | None]
) -> None:
    """Put the healthy route's lag of each second into its sample."""
    began_ns = marks["outage"][0]
    by_second: dict[int, list[float]] = {}
    for moment_ns, lag in zip(due, lags, strict=True):
        if lag is not None:
            by_second.setdefault((moment_ns - began_ns) // 1_000_000_000, []).append(lag)
    for sample in samples:
        found = percentiles(by_second.get(int(sample.at_s // 1), []))
        sample.live_ms_p50, sample.live_ms_p99 = found.get("p50"), found.get("p99")
