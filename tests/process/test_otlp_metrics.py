"""Metrics by OTLP: a console's process, a real receiver, the protocol's own messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import __version__
from engine.sandbox.ports import free_port
from tests.console_rig import console
from tests.otlp_receiver import attributes_of, otlp_receiver
from tests.support import wait_for


def sent(url: str, interval_s: float = 0.2) -> str:
    return f'[otlp]\nendpoint = "{url}"\nmetrics_interval_s = {interval_s}'


def test_metrics_are_prometheus_s(tmp_path: Path) -> None:
    """Every metric of /metrics arrives under its name, with its labels and the same number."""
    with otlp_receiver() as receiver, console(tmp_path, sent(receiver.url)) as running:
        wait_for(running.is_there, "the console answers")
        wait_for(lambda: len(receiver.metrics()) > 50, "metrics arrive")
        found = receiver.metrics()
        names = {line.split()[2].removesuffix("_total") for line in running.get("/metrics").body.splitlines()
                 if line.startswith("# TYPE")}  # fmt: skip
        assert names - set(found) == {name for name in names - set(found) if "process_" in name}
        delivered = found["ingest_engine_records_delivered"].sum
        (point,) = delivered.data_points
        assert (delivered.is_monotonic, delivered.aggregation_temporality) == (True, 2)
        assert (point.as_int, attributes_of(point)) == (7_990, {"process": "invoker 1/1"})
        assert 0 < point.start_time_unix_nano < point.time_unix_nano
        assert found["ingest_engine_up"].gauge.data_points[0].as_int == 1
        lags = found["ingest_engine_lag_seconds"]
        assert lags.unit == "s"
        settled = next(one for one in lags.histogram.data_points if attributes_of(one)["stage"] == "settled")
        assert (settled.count, sum(settled.bucket_counts)) == (7_990, 7_990)
        bounds = list(settled.explicit_bounds)
        assert len(settled.bucket_counts) == len(bounds) + 1
        (at,) = [index for index, count in enumerate(settled.bucket_counts) if count]
        assert bounds[at - 1] <= 0.031 < bounds[at]
        resource = receiver.resource()
        assert (resource["service.name"], resource["service.version"]) == ("ingest-engine", __version__)


def test_the_sdk_s_variables_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an endpoint in the settings OTEL_EXPORTER_OTLP_ENDPOINT says where, and OTEL_SERVICE_NAME who."""
    with otlp_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "carts")
        with console(tmp_path, "[otlp]\nmetrics_interval_s = 0.2"):
            wait_for(lambda: bool(receiver.metrics()), "metrics arrive")
            assert receiver.resource()["service.name"] == "carts"


def test_a_receiver_that_is_down_is_told_of_once(tmp_path: Path) -> None:
    """The console goes on answering, and its log says once that nothing is taken, without a traceback."""
    url = f"http://127.0.0.1:{free_port('nobody')}"
    with console(tmp_path, sent(url)) as running:
        wait_for(running.is_there, "the console answers")
        wait_for(lambda: "otlp_not_taken" in running.errors.read_text(), "a line of log")
        assert running.get("/readyz").status == 200
        assert running.get("/metrics").status == 200
    text = running.errors.read_text()
    assert text.count("otlp_not_taken") == 1
    assert "Traceback" not in text


def test_what_is_left_is_sent_at_the_end(tmp_path: Path) -> None:
    """A console that is to end sends once more what it knows, however long its interval is."""
    with otlp_receiver() as receiver, console(tmp_path, sent(receiver.url, 3_600)) as running:
        wait_for(running.is_there, "the console answers")
        assert not receiver.metrics()
        assert running.process.stdin is not None
        running.process.stdin.close()
        assert running.process.wait(60) == 0
        assert receiver.metrics()["ingest_engine_up"].gauge.data_points[0].as_int == 1
