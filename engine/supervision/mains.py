"""What children do. Everything heavy is imported here, after the fork: the supervisor carries no client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.config import DeliverySettings, Settings
from engine.errors import EngineError
from engine.lifecycle import ChildLink, Failed
from engine.model import Missed, StreamKept
from engine.ring.given import GivenTable
from engine.ring.heard import HeardTable
from engine.ring.ring import RingSet
from engine.ring.wake import Wake
from engine.routing.feeds import Feed
from engine.routing.nodes import Topology
from engine.routing.routes import RouteTable
from engine.tracing.line import SpanLine


@dataclass(frozen=True, slots=True)
class Duty:
    """All that a child is handed at its fork; ``index`` counts from 0 among its kind.

    ``feeds`` are what the subscriber listens to, ``topology`` the nodes, ``nodes`` those, by number, that each shard
    has feeds on. By node number, ``missed`` is what was not heard, and ``heard`` what a gap from now on would miss.
    By name, ``streams`` is what is kept of each.
    Versions are higher than ``version_floor``, those of a cluster's nodes than ``floors`` (by node id), and than what
    ``given`` has of a predecessor. Before ``fence_ms`` (monotonic) an invocation of a predecessor may still write.
    """

    index: int
    settings: Settings
    database: int
    feeds: tuple[Feed, ...]
    topology: Topology
    nodes: tuple[tuple[int, ...], ...]
    table: RouteTable
    rings: RingSet
    wakes: tuple[Wake, ...]
    heard_table: HeardTable
    missed: Mapping[int, tuple[Missed, ...]] = field(default_factory=dict)
    heard: Mapping[int, Missed] = field(default_factory=dict)
    streams: Mapping[str, StreamKept] = field(default_factory=dict)
    version_floor: int = 0
    floors: Mapping[str, int] = field(default_factory=dict)
    given: GivenTable | None = None
    fence_ms: int = 0
    spans: SpanLine | None = None


Main = Callable[[Duty, ChildLink], int]


@dataclass(frozen=True, slots=True)
class Mains:
    """The work of each kind of child; tests hand in their own."""

    subscriber: Main
    invoker: Main


def run_main(main: Main, duty: Duty, link: ChildLink) -> int:
    """Do a child's work; tell the supervisor what a user can understand of its failure."""
    try:
        return main(duty, link)
    except EngineError as error:
        link.report(Failed(error.message, error.hint))
        raise


def gather_ms_of(delivery: DeliverySettings, shards: int) -> tuple[float, float]:
    """Return how long changes gather in a subscriber, and in an invoker: in one of them, as each adds to the lag.

    A single subscriber spares itself and all invokers their wake-ups. Each of several sees only a part of what an
    invocation can take; only the invoker sees all of it.
    """
    return (delivery.gather_ms, 0.0) if shards == 1 else (0.0, delivery.gather_ms)


def subscribe(duty: Duty, link: ChildLink) -> int:
    """Capture one shard."""
    from engine.capture.subscriber import SubscriberSpec, run_subscriber

    settings = duty.settings
    spec = SubscriberSpec(
        shard=duty.index,
        feeds=duty.feeds,
        redis=settings.redis,
        capture=settings.capture,
        ring=settings.ring,
        table=duty.table,
        database=duty.database,
        mapping_prefix=settings.original.mapping_prefix,
        writers=[duty.rings.ring(duty.index, invoker).writer() for invoker in range(len(duty.wakes))],
        wakes=duty.wakes,
        version=duty.topology.version,
        heard_row=duty.heard_table.row(duty.index),
        missed=duty.missed,
        heard=duty.heard,
        streams=duty.streams,
        names_folder=_names_folder(settings),
        gather_ms=gather_ms_of(settings.delivery, len(duty.nodes))[0],
        traced_per_million=settings.otlp.traced_changes_per_million,
    )
    return run_subscriber(spec, link)


def invoke(duty: Duty, link: ChildLink) -> int:
    """Deliver what the rings hold for this invoker."""
    from engine.delivery.invoker import InvokerSpec, run_invoker

    settings = duty.settings
    spec = InvokerSpec(
        index=duty.index,
        invokers=len(duty.wakes),
        redis=settings.redis,
        database=duty.database,
        delivery=settings.delivery,
        aws=settings.aws,
        table=duty.table,
        readers=[duty.rings.ring(shard, duty.index).reader() for shard in range(len(duty.nodes))],
        nodes=duty.nodes,
        topology=duty.topology,
        wake=duty.wakes[duty.index],
        version_floor=duty.version_floor,
        floors=duty.floors,
        given=duty.given.rows[duty.index] if duty.given is not None else None,
        fence_ms=duty.fence_ms,
        part=settings.capture.slice,
        entry_fields=frozenset(() if "*" in settings.capture.fields else settings.capture.fields),
        gather_ms=gather_ms_of(settings.delivery, len(duty.nodes))[1],
        spans=duty.spans.writer if duty.spans is not None else None,
        names_keys=settings.log.keys,
        names_folder=_names_folder(settings) if settings.capture.source == "scan" else "",
    )
    return run_invoker(spec, link)


def _names_folder(settings: Settings) -> str:
    return str(Path(settings.delivery.backlog_folder, "names"))


REAL = Mains(subscribe, invoke)
