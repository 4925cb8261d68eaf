"""The metrics of `engine.console.prometheus`, under the same names, as OpenTelemetry's exporter takes them.

A counter has no ``_total``: who turns OTLP into Prometheus's format adds it. Sums and histograms are cumulative since
the engine's start.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.core import Metric as Family

from engine import __version__
from engine.clock import now_ms
from engine.config import Settings
from engine.console.otlp.receiver import Standing, resource_of, url_of
from engine.console.prometheus import SpanCounts, families_of
from engine.console.source import Source
from engine.observe.logs import get_logger
from engine.ring.counters import StatusRow

log = get_logger(__name__)

_CUMULATIVE = AggregationTemporality.CUMULATIVE
_UNITS = {"seconds": "s", "bytes": "By"}
_MS_NS = 1_000_000


def metrics_of(families: Iterable[Family], start_ns: int, now_ns: int) -> list[Metric]:
    """Return Prometheus's families as metrics of OpenTelemetry's; times are Unix time."""
    return [
        Metric(family.name, family.documentation, _UNITS.get(family.name.rpartition("_")[2], ""), data)
        for family in families
        if (data := _data_of(family, start_ns, now_ns)) is not None
    ]


def _data_of(family: Family, start_ns: int, now_ns: int) -> Gauge | Sum | Histogram | None:
    if not family.samples:
        return None
    if family.type == "histogram":
        return Histogram(_histograms(family, start_ns, now_ns), _CUMULATIVE)
    is_sum = family.type == "counter"
    points = [
        NumberDataPoint(sample.labels, start_ns if is_sum else 0, now_ns, _number(sample.value))
        for sample in family.samples
    ]
    return Sum(points, _CUMULATIVE, is_monotonic=True) if is_sum else Gauge(points)


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _histograms(family: Family, start_ns: int, now_ns: int) -> list[HistogramDataPoint]:
    """Return a point for each set of labels; buckets count between two bounds, Prometheus's all below one."""
    seen: dict[tuple[tuple[str, str], ...], list[tuple[float, int]]] = {}
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in family.samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        if sample.name.endswith("_bucket"):
            seen.setdefault(labels, []).append((float(sample.labels["le"]), int(sample.value)))
        elif sample.name.endswith("_sum"):
            sums[labels] = float(sample.value)
    points = []
    for labels, buckets in seen.items():
        below = [0, *(count for _, count in buckets)]
        counts = [count - before for before, count in pairwise(below)]
        bounds = [bound for bound, _ in buckets[:-1]]
        points.append(_histogram(dict(labels), start_ns, now_ns, sums.get(labels, 0.0), counts, bounds))
    return points


def _histogram(
    labels: Mapping[str, str], start_ns: int, now_ns: int, total: float, counts: list[int], bounds: list[float]
) -> HistogramDataPoint:
    # The board keeps neither the least nor the most; both are optional in the protocol.
    unknown: Any = None
    return HistogramDataPoint(labels, start_ns, now_ns, sum(counts), total, counts, bounds, unknown, unknown)


class MetricsSender:
    """Sends all metrics again and again, in a thread of its own."""

    def __init__(self, settings: Settings, rows: Sequence[StatusRow] = (), spans: SpanCounts = dict) -> None:
        otlp, url = settings.otlp, url_of(settings.otlp.endpoint, "metrics")
        self._source = Source(settings.supervision.status_file, now_ms, rows)
        self._ring_bytes = settings.ring.ring_bytes
        self._spans = spans
        self._resource = resource_of(settings)
        self._exporter = OTLPMetricExporter(url)
        self._standing = Standing("metrics", url)
        self._interval_s = otlp.metrics_interval_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="otlp-metrics", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._is_over.wait(self._interval_s)
            try:
                self._send()
            except Exception as error:
                # What nobody foresaw costs one report, and not all that come after it.
                log.exception("otlp_failed", what="metrics", error=f"{type(error).__name__}: {error}")

    def _send(self) -> None:
        status, now_ns = self._source.latest(), now_ms() * _MS_NS
        start_ns = status["started_at_ms"] * _MS_NS if status is not None else now_ns
        families = families_of(status, self._source.usages(), self._ring_bytes, self._spans())
        data = data_of(metrics_of(families, start_ns, now_ns), self._resource)
        self._standing.heard(is_taken=self._exporter.export(data) is MetricExportResult.SUCCESS)

    def close(self, limit_s: float) -> None:
        """Send once more, and end; give it up after so long."""
        self._is_over.set()
        self._thread.join(limit_s)
        self._exporter.shutdown()


def data_of(metrics: list[Metric], resource: Resource) -> MetricsData:
    """Return metrics as they are sent."""
    scope = InstrumentationScope("ingest-engine", __version__)
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(scope, metrics, "")], "")])
