"""A running engine as Prometheus reads it.

Names and units are Prometheus's: seconds, bytes, ``_total`` for what only grows. Counts are the board's, so they go on
when a process is replaced, and begin anew with the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from engine.console.families import COUNTS, GAUGES, TOTALS, Family
from engine.console.source import Usage
from engine.model import THE_BEGINNING_MS
from engine.observe.metrics import lags_in
from engine.observe.ready import is_ready
from engine.ring.lags import Stage, bucket_of

PREFIX = "ingest_engine_"
LAG_BOUNDS_MS = (
    1,
    *(bound for power in range(1, 12) for bound in (2 << power - 1, 3 << power - 1)),
    *(1 << power for power in range(12, 23)),
)
"""Bounds of the buckets that are shown: each is one of the histogram's own, so nothing is estimated."""

Samples = Iterable[tuple[Sequence[str], float]]
SpanCounts = Callable[[], Mapping[str, int]]
"""Returns how many spans the console's process has exported, and so on; none where nothing is traced."""


def exposition(
    status: Mapping[str, Any] | None,
    usages: Iterable[Usage],
    ring_bytes: int,
    accept: str,
    spans: Mapping[str, int] = {},
) -> tuple[bytes, str]:
    """Return all metrics and their content type, in the format that the ``Accept`` header asks for.

    ``status`` is None if no engine runs; ``ring_bytes`` is the size of one ring; ``spans`` as `SpanCounts` says.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(status, tuple(usages), ring_bytes, spans))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


def families_of(
    status: Mapping[str, Any] | None, usages: Iterable[Usage], ring_bytes: int, spans: Mapping[str, int] = {}
) -> Iterator[Metric]:
    """Yield all metrics; the arguments are those of `exposition`."""
    return _Snapshot(status, tuple(usages), ring_bytes, spans).collect()


class _Snapshot(Collector):
    def __init__(
        self,
        status: Mapping[str, Any] | None,
        usages: Sequence[Usage],
        ring_bytes: int,
        spans: Mapping[str, int],
    ) -> None:
        self._status, self._usages, self._ring_bytes, self._spans = status, usages, ring_bytes, spans

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        status = self._status
        yield _gauge("up", "Whether an engine runs and writes its status.", [], [((), status is not None)])
        if status is None:
            return
        yield from _of_engine(status)
        yield from _of_counters(status)
        yield from _of_invocations(status)
        yield from _of_gaps(status)
        yield from _of_lags(status)
        yield from _of_rings(status, self._ring_bytes)
        yield from _of_nodes(status)
        yield from _of_routes(status)
        yield from _of_processes(status, self._usages)
        if self._spans:
            yield from _of_spans(self._spans)


def _gauge(name: str, help_: str, labels: Sequence[str], samples: Samples) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}{name}", help_, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counter(name: str, help_: str, labels: Sequence[str], samples: Samples) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}{name}", help_, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _of_engine(status: Mapping[str, Any]) -> Iterator[Metric]:
    about = (status["version"], status["slice"])
    yield _gauge("info", "The engine's version and slice; always 1.", ["version", "slice"], [(about, 1)])
    yield _gauge("ready", "Whether all feeds listen and are proved to receive events.", [], [((), is_ready(status))])
    started_s = status["started_at_ms"] / 1_000
    yield _gauge("start_time_seconds", "When the engine was started (Unix time).", [], [((), started_s)])
    settled_ms = status.get("settled_until_ms", 0)
    if settled_ms > THE_BEGINNING_MS:
        age_s = max(0, status["updated_at_ms"] - settled_ms) / 1_000
        help_ = "Everything that changed longer ago than this is settled; about a second at rest."
        yield _gauge("settled_age_seconds", help_, [], [((), age_s)])
    for name, help_, key in GAUGES:
        yield _gauge(name, help_, [], [((), status.get(key, 0))])


def _of_counters(status: Mapping[str, Any]) -> Iterator[Metric]:
    children, totals = status["children"], status["totals"]
    for make, families in ((_counter, TOTALS), (_gauge, COUNTS)):
        for family in families:
            if family.role:
                mine = [child for child in children if child["role"] == family.role]
                samples: Samples = [((child["name"],), _value(family, child["counters"])) for child in mine]
                yield make(family.name, family.help, ["process"], samples)
            else:
                yield make(family.name, family.help, [], [((), _value(family, totals))])


def _value(family: Family, counters: Mapping[str, int]) -> int:
    first, *less = (counters[one.name.lower()] for one in family.counters)
    return max(0, first - sum(less))


def _of_invocations(status: Mapping[str, Any]) -> Iterator[Metric]:
    totals = status["totals"]
    throttled, lost = totals["invocations_throttled"], totals["invocations_lost"]
    outcomes = {
        "accepted": totals["invocations_accepted"],
        "throttled": throttled,
        "lost": lost,
        "failed": max(0, totals["invocations_failed"] - throttled - lost),
    }
    help_ = "Invocations by how they ended: lost are those without an answer; failed may have settled some records."
    yield _counter("invocations", help_, ["outcome"], [((name,), count) for name, count in outcomes.items()])


def _of_gaps(status: Mapping[str, Any]) -> Iterator[Metric]:
    samples = [((child["name"], reason), count)
               for child in status["children"] if child["role"] == "subscriber"
               for reason, count in child["gaps"].items()]  # fmt: skip
    yield _counter("gaps", "Times in which changes may have gone unheard, by reason.", ["process", "reason"], samples)


def _of_lags(status: Mapping[str, Any]) -> Iterator[Metric]:
    help_ = (
        "Lag of changes, by stage: captured (server to subscriber), then from there until fetched, invoked (each at "
        "the first attempt) and settled."
    )
    family = HistogramMetricFamily(f"{PREFIX}lag_seconds", help_, labels=["stage"])
    for stage in Stage:
        name = stage.name.lower()
        lags = lags_in(status, name)
        buckets, seen, begin = [], 0, 0
        for bound_ms in LAG_BOUNDS_MS:
            end = bucket_of(bound_ms)
            seen, begin = seen + sum(lags.buckets[begin:end]), end
            buckets.append((str(bound_ms / 1_000), seen))
        buckets.append(("+Inf", sum(lags.buckets)))
        family.add_metric([name], buckets, lags.sum_ms / 1_000)
    yield family


def _of_rings(status: Mapping[str, Any], ring_bytes: int) -> Iterator[Metric]:
    invokers = [child for child in status["children"] if child["role"] == "invoker"]
    used = [((child["name"],), child["ring_bytes_waiting"]) for child in invokers]
    size = [((child["name"],), ring_bytes * status["shards"]) for child in invokers]
    yield _gauge("ring_used_bytes", "Of an invoker's rings: written, and not settled.", ["process"], used)
    yield _gauge("ring_size_bytes", "Of an invoker's rings together.", ["process"], size)


def _of_nodes(status: Mapping[str, Any]) -> Iterator[Metric]:
    nodes = status.get("nodes", ())
    yield _gauge("nodes", "Redis nodes that are captured.", [], [((), len(nodes))])
    about = ["node", "address", "slots", "shards"]
    yield _gauge("node_info", "What a node is; always 1.", about, [
        ((_name(node), node["address"], str(node["slots"]), ",".join(str(one + 1) for one in node["shards"])), 1)
        for node in nodes
    ])  # fmt: skip
    ages = [((_name(node),), node["settled_age_ms"] / 1_000) for node in nodes if node["settled_age_ms"] is not None]
    help_ = "Everything that a node published longer ago than this is settled."
    yield _gauge("watermark_age_seconds", help_, ["node"], ages)
    help_ = "The same of a feed: of what one subscriber hears of a node, keys by their last bytes."
    yield _gauge("feed_watermark_age_seconds", help_, ["node", "process", "keys"], _of_feeds(status))
    owed = [((_name(node),), node["slots_owed"]) for node in nodes]
    yield _gauge("node_slots_owed", "Slots that a node gained, whose keys are not all found yet.", ["node"], owed)


def _of_feeds(status: Mapping[str, Any]) -> Samples:
    subscribers = {child["index"]: child["name"] for child in status["children"] if child["role"] == "subscriber"}
    return [
        ((_name(node), subscribers.get(feed["shard"], ""), feed["keys"]), feed["settled_age_ms"] / 1_000)
        for node in status.get("nodes", ())
        for feed in node.get("feeds", ())
        if feed["settled_age_ms"] is not None
    ]


def _name(node: Mapping[str, Any]) -> str:
    """Return what tells a node apart: its id, or where there is no cluster its address or number."""
    return str(node["id"] or node["address"] or node["number"])


def _of_routes(status: Mapping[str, Any]) -> Iterator[Metric]:
    routes = status["routes"]
    about = [((route["name"], route["function"]), 1) for route in routes]
    yield _gauge("route_info", "What a route delivers to; always 1.", ["route", "function"], about)
    for key, name, help_ in (
        ("keys_waiting", "route_keys_waiting", "Keys of a route that wait in memory."),
        ("keys_in_flight", "route_keys_in_flight", "Keys of a route whose invocation is under way."),
        ("keys_backlog", "route_backlog_keys", "Keys of a route that wait on disk."),
    ):
        if any(key in route for route in routes):
            samples = [((route["name"],), route.get(key, 0)) for route in routes]
            yield _gauge(name, help_, ["route"], samples)
    if any("failing_since_ms" in route for route in routes):
        now_ms = status["updated_at_ms"]
        failing = [((route["name"],), bool(route.get("failing_since_ms"))) for route in routes]
        yield _gauge("route_failing", "Whether deliveries of a route have been failing.", ["route"], failing)
        oldest = [((route["name"],), max(0, now_ms - route["oldest_ms"]) / 1_000 if route.get("oldest_ms") else 0)
                  for route in routes]  # fmt: skip
        yield _gauge("route_oldest_age_seconds", "Age of the oldest change of a route that waits.", ["route"], oldest)


def _of_spans(spans: Mapping[str, int]) -> Iterator[Metric]:
    samples = [((name,), spans[name]) for name in ("exported", "refused", "dropped")]
    help_ = "Spans that the console was told, by what became of them: refused by the receiver, dropped without room."
    yield _counter("spans", help_, ["outcome"], samples)


def _of_processes(status: Mapping[str, Any], usages: Sequence[Usage]) -> Iterator[Metric]:
    children = status["children"]
    up = [((child["name"],), bool(child["pid"])) for child in children]
    yield _gauge("process_up", "Whether a process runs.", ["process"], up)
    restarts = [((child["name"],), child["restarts"]) for child in children]
    yield _counter("process_restarts", "How often a process was replaced.", ["process"], restarts)
    silent = [((child["name"],), child["heartbeat_age_ms"] / 1_000) for child in children
              if child["heartbeat_age_ms"] is not None]  # fmt: skip
    yield _gauge("process_heartbeat_age_seconds", "How long ago a process's loop last turned.", ["process"], silent)
    cpu = [((one.process,), one.cpu_s) for one in usages]
    yield _counter("process_cpu_seconds", "CPU time of a process; resets when it is replaced.", ["process"], cpu)
    memory = [((one.process,), one.memory_bytes) for one in usages]
    yield _gauge("process_resident_memory_bytes", "Memory that a process holds; rings are shared.", ["process"], memory)
