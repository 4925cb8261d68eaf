"""What Prometheus reads."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from engine.console.families import COUNTS, TOTALS
from engine.console.prometheus import LAG_BOUNDS_MS, exposition
from engine.console.source import Usage, usages_of
from engine.observe.ready import is_ready
from engine.ring.counters import GAUGES, Counter
from engine.ring.lags import bucket_of, upper_ms
from tests.console_rig import status_of

RING_BYTES = 1_048_576
NOT_SHOWN = {Counter.LAG_MS_SUM, Counter.LAG_MS_MAX, Counter.VERSION, Counter.FENCE_MS, Counter.FRAMES_WRITTEN,
             Counter.CHANGES_READ, Counter.KEYS_RETYPED}  # fmt: skip
"""What nobody on call wants to know, or what histograms say better."""


def samples(status: dict[str, Any] | None, usages: Sequence[Usage] = ()) -> dict[tuple[str, ...], float]:
    """Return each sample by its name, and its labels in their alphabetical order."""
    body, _ = exposition(status, usages, RING_BYTES, "")
    return {
        (sample.name.removeprefix("ingest_engine_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_every_counter_of_the_board_is_shown() -> None:
    """A counter that is added to the board is shown, or is said not to be."""
    shown = {one for family in (*TOTALS, *COUNTS) for one in family.counters}
    shown |= {one for one in Counter if one.name.startswith("INVOCATIONS")} | {Counter.GAPS}
    assert shown | NOT_SHOWN == set(Counter)
    assert not {family.counters[0] for family in TOTALS} & GAUGES
    assert {family.counters[0] for family in COUNTS} <= GAUGES


def test_names_are_prometheus_s() -> None:
    """What only grows ends in _total, spans are seconds, sizes bytes, and both formats can be parsed."""
    body, content_type = exposition(status_of(os.getpid()), [Usage("supervisor", 1.5, 2)], RING_BYTES, "")
    assert content_type.startswith("text/plain")
    for family in text_string_to_metric_families(body.decode()):
        assert re.fullmatch(r"ingest_engine_[a-z_]+", family.name), family.name
        assert family.documentation
        assert not re.search(r"_(ms|milliseconds|kb|mb|count)$", family.name)
        assert {sample.name.endswith("_total") for sample in family.samples} <= {family.type == "counter"}
    accept = "application/openmetrics-text;version=1.0.0"
    body, content_type = exposition(status_of(os.getpid()), [], RING_BYTES, accept)
    assert content_type.startswith("application/openmetrics-text")
    assert len(list(open_metrics(body.decode()))) > 50


def test_counts_are_those_of_the_board() -> None:
    """Each outcome of an invocation is counted once, gaps by reason, and what no route wants as filtered."""
    found = samples(status_of(os.getpid()), [Usage("invoker 1/1", 2.5, 1_000)])
    outcomes = {name: found["invocations_total", name] for name in ("accepted", "failed", "throttled", "lost")}
    assert outcomes == {"accepted": 16, "failed": 1, "throttled": 1, "lost": 2}
    assert found["events_captured_total", "subscriber 1/2"] == 5_000
    assert found["events_filtered_total", "subscriber 1/2"] == 1_000
    assert found["records_delivered_total", "invoker 1/1"] == 7_990
    assert found["gaps_total", "subscriber 1/2", "disconnected"] == 1
    assert found["gaps_total", "subscriber 2/2", "disconnected"] == 0
    assert found["ring_used_bytes", "invoker 1/1"] == 4_096
    assert found["ring_size_bytes", "invoker 1/1"] == 2 * RING_BYTES
    assert found["watermark_age_seconds", "127.0.0.1:6379"] == 0.9
    assert found["feed_watermark_age_seconds", "\\x00-m", "127.0.0.1:6379", "subscriber 1/2"] == 0.9
    assert found["feed_watermark_age_seconds", "n-\\xff", "127.0.0.1:6379", "subscriber 2/2"] == 0.4
    assert found["process_cpu_seconds_total", "invoker 1/1"] == 2.5
    assert found["process_resident_memory_bytes", "invoker 1/1"] == 1_000
    assert (found["up",], found["ready",]) == (1, 1)


def test_lag_buckets_are_exact() -> None:
    """A bound of Prometheus's is a bound of the histogram's, so a bucket holds just what is below it."""
    assert all(upper_ms(bucket_of(bound_ms - 1)) == bound_ms - 1 for bound_ms in LAG_BOUNDS_MS)
    found = samples(status_of(os.getpid()))
    buckets = {key[1:]: value for key, value in found.items() if key[0] == "lag_seconds_bucket"}
    settled = {float(bound): value for (bound, stage), value in buckets.items() if stage == "settled"}
    assert settled[0.024] == 0
    assert settled[0.032] == settled[float("inf")] == found["lag_seconds_count", "settled"] == 7_990
    assert found["lag_seconds_sum", "settled"] == 7_990 * 0.031


def test_an_engine_that_does_not_run_is_down() -> None:
    """Whoever scrapes is told so, rather than shown what was."""
    assert samples(None) == {("up",): 0}


def test_hostile_names_are_labels() -> None:
    """A route's name with quotes, line ends and backslashes is one label."""
    status = status_of(os.getpid())
    name = 'a"b\\c\nd'
    status["routes"][0]["name"] = name
    assert samples(status)["route_info", "dynamodb", name] == 1


def test_ready_means_proved() -> None:
    """A feed that does not listen, or is not proved to hear, and a process that is away make an engine not ready."""
    status = status_of(os.getpid())
    assert is_ready(status)
    assert not is_ready(status | {"state": "starting"})
    assert not is_ready(status | {"totals": status["totals"] | {"feeds_proved": 1}})
    children = [status["children"][0] | {"state": "empty"}, *status["children"][1:]]
    assert not is_ready(status | {"children": children})


def test_a_process_that_has_ended_is_left_out() -> None:
    """A process id of the status that is nobody's any more is no error."""
    status = status_of(os.getpid())
    status["children"][0]["pid"] = 2**22 + 1
    names = [usage.process for usage in usages_of(status)]
    assert names == ["supervisor", "subscriber 2/2", "invoker 1/1", "console"]
