"""What CloudWatch is told of an engine."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from moto import mock_aws

from engine.config import AwsSettings
from engine.errors import EngineError
from engine.observe.metrics import COUNTERS, GAUGES, LAGS, emf_line, metric_data, read
from engine.observe.reporter import report_every, to_cloudwatch, to_lines
from engine.ring.counters import Counter

AT_MS = 1_700_000_000_000


def status(**totals: int) -> dict[str, Any]:
    return {
        "started_at_ms": 1,
        "updated_at_ms": AT_MS,
        "settled_until_ms": AT_MS - 40,
        "slice": "1/3",
        "totals": {counter.name.lower(): 0 for counter in Counter} | totals,
    }


class Stopped(Exception):
    """The test has seen enough."""


def lines_of(*statuses: dict[str, Any] | EngineError) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the lines that a monitor prints which finds these, one after the other, and what it complains of."""
    found, printed, complaints = iter(statuses), [], []

    def read_status() -> dict[str, Any]:
        one = next(found, None)
        if one is None:
            raise Stopped
        if isinstance(one, EngineError):
            raise one
        return one

    def complain(error: EngineError) -> None:
        complaints.append(str(error))

    with pytest.raises(Stopped):
        report_every(60, read_status, to_lines("N", "E", lambda line: printed.append(line)), complain, lambda _: None)
    return [json.loads(line) for line in printed], complaints


def test_every_metric_is_a_counter_of_the_engine() -> None:
    """What is told has a counter of its own in the status file."""
    names = {counter.name.lower() for counter in Counter}
    assert {*GAUGES.values(), *COUNTERS.values()} <= names


def test_a_line_is_embedded_metric_format() -> None:
    """Each metric that the head names is a number of the line, and each dimension a text."""
    line = json.loads(emf_line(read(status(gaps=2, keys_waiting=7), None, AT_MS), "N", "E"))
    head = line["_aws"]
    assert head["Timestamp"] == AT_MS
    (directive,) = head["CloudWatchMetrics"]
    assert directive["Namespace"] == "N"
    assert directive["Dimensions"] == [["Engine"], ["Engine", "Slice"]]
    assert (line["Engine"], line["Slice"]) == ("E", "1/3")
    assert {one["Name"] for one in directive["Metrics"]} == {name for name, value in line.items() if value in range(99)}
    assert (line["LagMs"], line["Gaps"], line["KeysWaiting"], line["Running"]) == (40, 2, 7, 1)


def test_counters_are_told_as_what_has_come() -> None:
    """A gap is told once, and a restarted engine, whose counters begin anew, makes no negative number."""
    restarted = status(gaps=1) | {"started_at_ms": 2}
    lines, complaints = lines_of(status(gaps=3), status(gaps=4, keys_waiting=5), status(gaps=4), restarted)
    assert [line["Gaps"] for line in lines] == [3, 1, 0, 1]
    assert [line["KeysWaiting"] for line in lines] == [0, 5, 0, 0]
    assert complaints == []


def test_that_no_engine_runs_is_told() -> None:
    """A monitor goes on where no engine runs, says so in a metric each time, and in words once."""
    gone = EngineError("no engine runs here")
    lines, complaints = lines_of(status(), gone, gone, status(gaps=1))
    assert [line["Running"] for line in lines] == [1, 0, 0, 1]
    assert "LagMs" not in lines[1]
    assert [line.get("Gaps") for line in lines] == [0, None, None, 1]
    assert complaints == ["no engine runs here"]


def lags(settled: list[tuple[int, int]], captured: list[tuple[int, int]]) -> dict[str, Any]:
    """Return what a status says of lags: of each stage (ms, how many)."""
    return {
        "lag": {
            stage: {"sum_ms": sum(ms * count for ms, count in pairs), "buckets": pairs}
            for stage, pairs in (("settled", settled), ("captured", captured))
        }
    }


def test_percentiles_of_lags_are_of_the_time_since_the_reading_before() -> None:
    """What settled before counts no more; a stage to which nothing came has no percentile; all are milliseconds."""
    before = status() | lags([(900, 50)], [(1, 7)])
    after = status() | lags([(10, 60), (20, 39), (30, 1), (900, 50)], [(1, 7)])
    values = read(after, before, AT_MS).values
    found = {name: value for name, value in values.items() if "Lag" in name and name != "LagMs"}
    assert found == {"DeliveryLagP50Ms": 10, "DeliveryLagP99Ms": 20, "DeliveryLagMaxMs": 30}
    restarted = read(after | {"started_at_ms": 2}, before, AT_MS)
    assert restarted.values["CaptureLagP99Ms"] == 1
    assert restarted.values["DeliveryLagMaxMs"] >= 900
    units = {one["MetricName"]: one["Unit"] for one in metric_data(restarted, "E")}
    assert {units[name] for name in (*LAGS, "LagMs")} == {"Milliseconds"}


def test_a_lag_that_nobody_knows_is_no_number() -> None:
    """Before the first watermark there is no lag to tell."""
    assert "LagMs" not in read(status() | {"settled_until_ms": 0}, None, AT_MS).values


@mock_aws
def test_cloudwatch_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put is there to be asked for, under the engine's name."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    to_cloudwatch("N", "E", AwsSettings(region="eu-west-1"))(read(status(gaps=2), None, AT_MS))
    metrics = boto3.client("cloudwatch", region_name="eu-west-1").list_metrics(Namespace="N", MetricName="Gaps")
    named = [{one["Name"]: one["Value"] for one in metric["Dimensions"]} for metric in metrics["Metrics"]]
    assert {"Engine": "E"} in named
    assert {"Engine": "E", "Slice": "1/3"} in named


def test_what_cannot_be_sent_is_told_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a CloudWatch that answers, one line says what and how to mend it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", "http://127.0.0.1:1")
    with pytest.raises(EngineError, match="metrics could not be sent") as caught:
        to_cloudwatch("N", "E", AwsSettings(region="eu-west-1"))(read(status(), None, AT_MS))
    assert "the network path" in caught.value.hint
