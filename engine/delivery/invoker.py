"""An invoker process: rings → fetch → batches → invocations → settled.

The loop turns when something happened: frames in a ring, an invocation that ended, a command, or a moment
that a lane waits for. It owns every lane, and the sockets of all invocations that are under way.
"""

from __future__ import annotations

import gc
import random
import select
import socket
import sys
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from engine.clock import Pace, monotonic_ms, now_ms
from engine.config import AwsSettings, DeliverySettings, RedisSettings
from engine.delivery.backlog.backlog import Backlog
from engine.delivery.dispatch import Buried, Completion, Prepared
from engine.delivery.gauges import set_gauges
from engine.delivery.intake import Intake
from engine.delivery.lanes.hands import Home, LaneKit
from engine.delivery.lanes.lanes import Lanes
from engine.delivery.lanes.retry import Backoff
from engine.delivery.lanes.settle import Frame
from engine.delivery.names import NamesOfDelivered
from engine.delivery.reading.fetch import Fetcher, ReadLoop
from engine.delivery.reads import Reads
from engine.delivery.relief import Relief, empty_out
from engine.delivery.sockets import Sockets
from engine.delivery.standing import Reporter
from engine.delivery.traces import Tracing
from engine.lifecycle import (
    ChildLink,
    Drain,
    PromiseBroken,
    RepairWanted,
    RoutesInForce,
    SetRoutes,
    SetTopology,
    Stop,
    TopologyInForce,
)
from engine.model import Run
from engine.observe.logs import get_logger
from engine.redis.address import parse_url
from engine.ring.counters import ChildState, Counter, StatusRow
from engine.ring.given import GivenRow
from engine.ring.ring import RingReader
from engine.ring.wake import Wake
from engine.routing.databases import databases_of
from engine.routing.nodes import Topology
from engine.routing.routes import RouteTable
from engine.tracing.line import Teller

log = get_logger(__name__)

BEAT_MS_MAX = 500
OBEY_MS_MAX = 50
"""How often commands are looked for, besides when they are announced."""
UPKEEP_MS = 20
"""How often the loop checks whether rings fill up, and updates what others look at."""
SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter's lock from another: the default of 5 ms would become our lag."""


@dataclass(frozen=True, slots=True)
class InvokerSpec:
    """All that an invoker is handed at its fork; ``index`` counts from 0. ``nodes`` are, by number, those that
    the shard behind each reader has feeds on.

    Versions are higher than ``version_floor``, those of a cluster's nodes than ``floors`` (by node id), and than what
    ``given`` has of a predecessor. Before ``fence_ms`` (monotonic) an invocation of the engine that ran
    before this one may still write. Keys are read from the nodes of ``topology``. ``entry_fields`` are wanted of
    entries of streams, none for all. While changes keep coming, they are taken up every ``gather_ms``. Where changes
    are traced, their ``spans`` go there, with the keys' names if ``names_keys``. ``names_folder`` is where scans
    keep the names of keys, "" for other sources.
    """

    index: int
    invokers: int
    redis: RedisSettings
    database: int
    delivery: DeliverySettings
    aws: AwsSettings
    table: RouteTable
    readers: Sequence[RingReader]
    nodes: Sequence[Collection[int]]
    wake: Wake
    version_floor: int = 0
    fence_ms: int = 0
    topology: Topology = field(default_factory=Topology)
    floors: Mapping[str, int] = field(default_factory=dict)
    given: GivenRow | None = None
    part: str = "0/1"
    entry_fields: frozenset[str] = frozenset()
    gather_ms: float = 0.0
    spans: socket.socket | None = None
    names_keys: bool = False
    names_folder: str = ""


def run_invoker(spec: InvokerSpec, link: ChildLink) -> int:
    """Run until drained or stopped; return the exit status. Clients are made here, after the fork."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    invoker = Invoker(spec, link)
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    link.set_state(ChildState.READY)
    return invoker.run()


def _fetcher(spec: InvokerSpec, row: StatusRow, loop: ReadLoop) -> Fetcher:
    floors = dict(spec.floors)
    if spec.given is not None:
        for node in spec.topology.nodes:
            floors[node.id] = max(floors.get(node.id, 0), spec.given.get(node.number))
    return Fetcher(
        spec.redis,
        spec.database,
        f"engine-invoker-{spec.index + 1}",
        spec.delivery.fetch_keys_max,
        version_floor=max(spec.version_floor, row.get(Counter.VERSION)),
        topology=spec.topology,
        floors=floors if spec.topology.is_cluster else None,
        loop=loop,
    )


def _tracing(spec: InvokerSpec, row: StatusRow) -> Tracing | None:
    if spec.spans is None:
        return None
    teller = Teller(spec.spans, partial(row.add, Counter.SPANS_DROPPED))
    return Tracing(teller, spec.index + 1, names_keys=spec.names_keys, server=str(parse_url(spec.redis.url)))


class Invoker:
    """The loop and what it owns: its rings' ends, a lane per route, the connections for reads, a backlog."""

    def __init__(self, spec: InvokerSpec, link: ChildLink) -> None:
        self._spec = spec
        self._link = link
        self._row = link.row
        self._done: deque[Completion] = deque()
        self._sockets = Sockets()
        self._intake = Intake(spec.readers, spec.nodes, self._ring_damaged)
        delivery = spec.delivery
        # A predecessor used the same row: what it had in flight may still be written.
        self._fence_ms = max(spec.fence_ms, self._row.get(Counter.FENCE_MS))
        databases = databases_of(spec.redis, spec.database)
        self._backlog = Backlog(
            delivery.backlog_folder,
            spec.index,
            spec.invokers,
            delivery.backlog_bytes_max,
            of_several=databases.are_several,
        )
        self._kit = LaneKit(
            databases.only, delivery, spec.aws, self._backlog, self._row, self._done, spec.wake, self._sockets,
            Home(spec.index, spec.invokers, spec.part), _tracing(spec, self._row),
        )  # fmt: skip
        self._draining = self._is_kept_up = False
        self._pace = Pace(spec.gather_ms)
        self._patience_ms = 0 if spec.gather_ms else round(2 * delivery.gather_ms)
        self._obey_due_ms = self._upkeep_due_ms = self._taken = self._woken_ms = self._rest_ms = 0
        self._reporter = Reporter(link, self._backlog)
        self._lanes = Lanes(self._kit)
        backoff = Backoff(delivery.retry_backoff_ms_min, delivery.retry_backoff_ms_max)
        self._reads = Reads(
            partial(_fetcher, spec, link.row),
            link,
            self._sockets,
            spec.wake.signal,
            lambda failures: backoff.wait_ms(failures, random.random),
            self._lanes.all,
            delivery.payload_bytes_max,
            spec.given.set if spec.given is not None else lambda _node, _version: None,
            spec.entry_fields,
            NamesOfDelivered(spec.names_folder) if spec.names_folder else None,
        )
        if self._kit.tracing is not None and spec.topology.is_cluster:
            self._kit.tracing.node_of = self._reads.node_of
        self._relief = Relief()
        self._damaged = 0
        """Damaged files of the backlog whose keys are being looked for."""
        self._open_backlog()
        self._set_routes(spec.table)

    def _open_backlog(self) -> None:
        delivery = self._spec.delivery
        wait_ms_max = max(delivery.retry_backoff_ms_max, delivery.set_aside_backoff_ms_max)
        fence_after_ms = max(delivery.invoke_timeout_ms, delivery.deadline_ms + delivery.deadline_margin_ms)
        problem = self._backlog.open(now_ms() + wait_ms_max + fence_after_ms)
        if problem:
            log.error("backlog_unusable", problem=problem)
        self._note_damage()

    def _ring_damaged(self, shard: int, since_ms: dict[int, int]) -> None:
        self._link.report(RepairWanted(since_ms, shard))
        self._lanes.distrust()

    def _note_damage(self) -> None:
        """Request a search for the keys of a damaged backlog: they may be any keys."""
        damaged = self._backlog.damaged
        if len(damaged) > self._damaged:
            log.error("backlog_lost", moved_to=damaged, hint="its keys are found by a scan of the whole keyspace")
            self._link.report(RepairWanted())
            self._intake.distrust.await_all()
        self._damaged = len(damaged)

    def run(self) -> int:
        """Turn until there is nothing left to do."""
        wake, link, sockets = self._spec.wake, self._link, self._sockets
        sockets.watch(wake.fileno(), select.POLLIN, self._be_woken, is_urgent=True)
        sockets.watch(link.fileno(), select.POLLIN, self._be_told, is_urgent=True)
        while True:
            moment_ms = monotonic_ms()
            link.beat(moment_ms)
            if moment_ms >= self._obey_due_ms and self._obey(moment_ms):
                return 0
            more = self._turn()
            if self._draining and not more and self._is_idle():
                set_gauges(self._row, self._lanes.all(), self._backlog, self._fence_ms)
                self._backlog.close()
                self._lanes.keep_digests()
                self._link.set_state(ChildState.DRAINED)
                return 0
            urgent_ms = 0 if more else self._gather()
            sockets.wait(0 if more else self._wait_ms(), urgent_ms)

    def _be_woken(self) -> None:
        # Cleared before looking for work, or a signal in between would be lost.
        self._spec.wake.clear()
        self._pace.begin()
        self._taken, woken_ms, self._woken_ms = 0, self._woken_ms, monotonic_ms()
        self._rest_ms = self._patience_ms if self._woken_ms - woken_ms <= self._patience_ms else 0

    def _gather(self) -> int:
        """Have changes come together, unless an answer lets some start; return for how many ms answers can wait.

        While changes keep coming, an answer is served along with the next ones: a turn less, and a process woken less.
        """
        if self._draining or any(lane.keys.waits_for_slot() for lane in self._lanes.all()):
            return 0
        self._pace.keep(self._taken)
        wait_ms, self._rest_ms = self._rest_ms, 0
        return wait_ms

    def _be_told(self) -> None:
        self._obey_due_ms = 0

    def _obey(self, moment_ms: int) -> bool:
        self._obey_due_ms = moment_ms + OBEY_MS_MAX
        for command in self._link.commands():
            if isinstance(command, Stop):
                return True
            if isinstance(command, Drain):
                self._draining = True
                self._link.set_state(ChildState.DRAINING)
            elif isinstance(command, SetRoutes):
                table = RouteTable.decode(command.table)
                self._set_routes(table)
                self._link.report(RoutesInForce(table.version))
            elif isinstance(command, SetTopology):
                self._intake.set_nodes(command.nodes)
                self._reads.set_topology(command.topology)
                self._link.report(TopologyInForce(command.topology.version))
        return False

    def _turn(self) -> bool:
        """Do what can be done now; return True if there is more that need not be waited for."""
        more = self._intake.read(self._distribute)
        self._sockets.expire(monotonic_ms())
        self._complete()
        more |= self._lanes.sort_shelves(monotonic_ms())
        self._start_batches()
        moment_ms = monotonic_ms()
        self._is_kept_up = moment_ms >= self._upkeep_due_ms or self._draining
        if self._is_kept_up:
            self._keep_up(moment_ms)
        if self._intake.release():
            self._backlog.repaired()
        return more or bool(self._done)

    def _keep_up(self, moment_ms: int) -> None:
        """Do what can wait for some milliseconds: check whether rings fill up, and update what others look at."""
        self._upkeep_due_ms = moment_ms + UPKEEP_MS
        self._relieve_rings()
        set_gauges(self._row, self._lanes.all(), self._backlog, self._fence_ms)
        self._note_damage()
        if self._kit.tracing is not None:
            self._kit.tracing.look(self._lanes.all(), moment_ms, is_last=self._draining)
        self._reporter.turn(self._lanes.all(), moment_ms)

    def _distribute(self, runs: list[Run], frame: Frame, is_fenced: bool) -> None:
        row, moment = self._row, monotonic_ms()
        is_fenced = is_fenced and moment < self._fence_ms
        count, merged, tracing = sum([len(run.keys) for run in runs]), 0, self._kit.tracing
        self._taken += count
        row.add(Counter.CHANGES_READ, count)
        origins = tracing.origins_of(runs) if tracing is not None else None
        for lane, mine in self._lanes.share_out(runs):
            lane.take_marks(mine)
            if is_fenced:
                lane.add_fenced(mine, frame, self._fence_ms)
            else:
                merged += lane.keys.add(mine, frame, moment)
            if origins:
                lane.traces.arrive(mine, origins)
        row.add(Counter.CHANGES_COALESCED, merged)

    def _complete(self) -> None:
        while self._done:
            ended, moment_ms = self._done.popleft(), monotonic_ms()
            if isinstance(ended, Prepared):
                ended.go_on()
                continue
            lane = self._lanes.by_id(ended.lane_id)
            if isinstance(ended, Buried):
                lane.buried(ended.burial, ended.problem, moment_ms)
            else:
                lane.complete(ended.batch, ended.outcome, moment_ms, now_ms())
                if ended.outcome.wants_fence:
                    # It has written nothing; the next table has the route fenced.
                    self._link.report(PromiseBroken())
            if lane.strays:
                self._lanes.hand_on(lane, moment_ms)
        if self._lanes.retired:
            self._lanes.close_retired(monotonic_ms())

    def _start_batches(self) -> None:
        for lane in self._lanes.all():
            while self._reads.is_open():
                moment_ms = monotonic_ms()
                if not self._draining:
                    lane.take_back(moment_ms)
                batch = lane.take(moment_ms, flush=self._draining)
                if batch is None:
                    break
                if not self._reads.deliver(lane, batch):
                    # All of it waits for its node, and so may the next batch: others have their turn first.
                    break
                if not (lane.keys.has_more() or len(lane.shelf)):
                    break

    def _relieve_rings(self) -> None:
        """Move the keys of lanes to disk that would stop the others by filling the rings, or that hold up a drain."""
        # What a retired lane has in flight ends by itself; the rest belongs to other lanes.
        lanes = tuple(self._lanes.in_force.values())
        if self._draining:
            empty_out(lanes)
        else:
            self._relief.relieve(lanes, self._intake.share_used())

    def _is_idle(self) -> bool:
        return not self._done and all(lane.keys.is_idle() for lane in self._lanes.all())

    def _wait_ms(self) -> int:
        """Return how long nothing can happen by itself, in milliseconds, at least 1: no spinning."""
        moment_ms = monotonic_ms()
        until_ms = moment_ms + BEAT_MS_MAX
        if not self._is_kept_up:
            until_ms = min(until_ms, self._upkeep_due_ms)
        if self._reads.is_open():
            for lane in self._lanes.all():
                if lane.keys.has_more() and (due_ms := lane.next_due_ms(moment_ms)) is not None:
                    until_ms = min(until_ms, due_ms)
        expiry_ms = self._sockets.next_expiry_ms()
        if expiry_ms is not None:
            until_ms = min(until_ms, expiry_ms)
        return max(1, until_ms - moment_ms)

    def _set_routes(self, table: RouteTable) -> None:
        self._lanes.set_routes(table, monotonic_ms(), self._spec.fence_ms, self._fence_ms)
