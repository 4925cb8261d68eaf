"""What a monitor needs to know about a running engine, in CloudWatch's form.  (pure)

The source is the status file, so nothing here can slow the engine. `Embedded metric format
<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>`_
is a line of JSON that CloudWatch Logs turns into metrics: no API call, and no permission except to write logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from engine.model import THE_BEGINNING_MS
from engine.observe.history import SHARES
from engine.ring.lags import EMPTY, Histogram

RUNNING = "Running"
"""1 if an engine runs, 0 if none does."""

LAG_MS = "LagMs"
"""How far back the moment is before which all that changed is settled; at rest about a second."""

DELETIONS_HELD = "DeletionsHeld"
"""Keys that were found gone, and wait for a decision."""

LAGS = {
    "CaptureLagP99Ms": ("captured", "p99"),
    "DeliveryLagP50Ms": ("settled", "p50"),
    "DeliveryLagP99Ms": ("settled", "p99"),
    "DeliveryLagMaxMs": ("settled", "max"),
}
"""Metric → stage and percentile of the changes that reached it since the previous reading; left out if none did."""

GAUGES = {
    "KeysWaiting": "keys_waiting",
    "KeysInFlight": "keys_in_flight",
    "KeysBacklog": "keys_backlog",
    "KeysSetAside": "keys_set_aside",
}
COUNTERS = {
    "EventsRead": "events_read",
    "EventsDropped": "events_dropped",
    "Gaps": "gaps",
    "RecordsDelivered": "records_delivered",
    "SkippedUnchanged": "skipped_unchanged",
    "Invocations": "invocations",
    "InvocationsFailed": "invocations_failed",
    "InvocationsThrottled": "invocations_throttled",
    "DeadLetters": "dead_letters",
}
"""Metric → counter of the status file. Counters are reported as the increase since the previous reading."""


class Reading(NamedTuple):
    """The metrics of one moment (Unix time in ms); ``part`` is the engine's slice."""

    at_ms: int
    part: str
    values: dict[str, int]


def read(status: Mapping[str, Any] | None, before: Mapping[str, Any] | None, at_ms: int) -> Reading:
    """Return the metrics of this status, None if no engine runs.

    ``before`` is the status at the previous reading; without one, or if it is another process's, counters are since the
    engine's start.
    """
    if status is None:
        return Reading(at_ms, "", {RUNNING: 0})
    totals = status["totals"]
    is_same = before is not None and before["started_at_ms"] == status["started_at_ms"]
    earlier = before["totals"] if is_same and before is not None else {}
    values = {RUNNING: 1}
    if status["settled_until_ms"] > THE_BEGINNING_MS:
        values[LAG_MS] = max(0, status["updated_at_ms"] - status["settled_until_ms"])
    values |= _percentiles(status, before if is_same else None)
    values |= {name: totals[counter] for name, counter in GAUGES.items()}
    values[DELETIONS_HELD] = status.get("deletions_held", 0)
    values |= {name: totals[counter] - earlier.get(counter, 0) for name, counter in COUNTERS.items()}
    return Reading(at_ms, str(status["slice"]), values)


def _percentiles(status: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, (stage, percentile) in LAGS.items():
        lags = lags_in(status, stage) - (lags_in(before, stage) if before is not None else EMPTY)
        (lag_ms,) = lags.percentiles([SHARES[percentile]])
        if lag_ms is not None:
            found[name] = lag_ms
    return found


def lags_in(status: Mapping[str, Any], stage: str) -> Histogram:
    """Return a stage's lags since the engine's start; none if an older engine wrote the status."""
    lags = status.get("lag", {}).get(stage)
    return Histogram.from_pairs(lags["sum_ms"], lags["buckets"]) if lags else EMPTY


def unit_of(metric: str) -> str:
    """Return CloudWatch's name of a metric's unit."""
    return "Milliseconds" if metric.endswith("Ms") else "Count"


def dimensions_of(reading: Reading, engine: str) -> list[dict[str, str]]:
    """Return the dimensions of a metric: the engine as a whole, and, if an engine runs, its slice."""
    whole = {"Engine": engine}
    return [whole, {**whole, "Slice": reading.part}] if reading.part else [whole]


def emf_line(reading: Reading, namespace: str, engine: str) -> str:
    """Return the reading as a line of embedded metric format."""
    sets = dimensions_of(reading, engine)
    about = {
        "Timestamp": reading.at_ms,
        "CloudWatchMetrics": [
            {
                "Namespace": namespace,
                "Dimensions": [list(one) for one in sets],
                "Metrics": [{"Name": name, "Unit": unit_of(name)} for name in reading.values],
            }
        ],
    }
    return msgspec.json.encode({"_aws": about, **sets[-1], **reading.values}).decode()


def metric_data(reading: Reading, engine: str) -> list[dict[str, Any]]:
    """Return the reading as ``PutMetricData`` takes it, except for the time, which is ``reading.at_ms``."""
    return [
        {
            "MetricName": name,
            "Dimensions": [{"Name": key, "Value": text} for key, text in one.items()],
            "Value": value,
            "Unit": unit_of(name),
        }
        for one in dimensions_of(reading, engine)
        for name, value in reading.values.items()
    ]
