"""An invoker process: rings → fetch → batches → invocations → settled.

The loop turns when something happened: frames in a ring, an invocation that ended, a command, or a moment
that a lane waits for. It owns every lane; the threads of `engine.delivery.dispatch` only carry payloads out
and outcomes back.
"""

from __future__ import annotations

import gc
import random
import select
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from engine.clock import monotonic_ms, now_ms
from engine.config import AwsSettings, DeliverySettings, RedisSettings
from engine.delivery.dead_letter import DeadLetterFile
from engine.delivery.dispatch import Completion
from engine.delivery.fetch import Fetcher
from engine.delivery.retry import Backoff
from engine.delivery.route_lane import RouteLane
from engine.delivery.settle import Frame, Ledger
from engine.errors import RedisError
from engine.lifecycle import ChildLink, Drain, RoutesInForce, SetRoutes, Stop
from engine.model import Change
from engine.observe.logs import get_logger
from engine.ring.codec import decode_changes
from engine.ring.counters import ChildState, Counter
from engine.ring.ring import RingReader
from engine.ring.wake import Wake
from engine.routes import RouteTable

log = get_logger(__name__)

BEAT_MS_MAX = 500
FRAMES_A_TURN_MAX = 64
SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter's lock from another: the default of 5 ms would be our lag."""


@dataclass(frozen=True, slots=True)
class InvokerSpec:
    """All that an invoker is handed at its fork; ``index`` counts from 0."""

    index: int
    invokers: int
    redis: RedisSettings
    database: int
    delivery: DeliverySettings
    aws: AwsSettings
    table: RouteTable
    readers: Sequence[RingReader]
    wake: Wake


def run_invoker(spec: InvokerSpec, link: ChildLink) -> int:
    """Run until drained or stopped; return the exit status. Clients are made here, after the fork."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    invoker = Invoker(spec, link)
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    link.set_state(ChildState.READY)
    return invoker.run()


class Invoker:
    """The loop and what it owns: a ledger a ring, a lane a route, one connection for the reads."""

    def __init__(self, spec: InvokerSpec, link: ChildLink) -> None:
        self._spec = spec
        self._link = link
        self._row = link.row
        self._done: deque[Completion] = deque()
        self._ledgers = [Ledger() for _ in spec.readers]
        self._fetcher = Fetcher(
            spec.redis, spec.database, f"engine-invoker-{spec.index + 1}", spec.delivery.fetch_keys_max
        )
        self._backoff = Backoff(spec.delivery.retry_backoff_ms_min, spec.delivery.retry_backoff_ms_max)
        self._dead_letters = DeadLetterFile(spec.delivery.dead_letter_file, spec.delivery.dead_letter_bytes_max)
        self._fetch_failures = 0
        self._fetch_after_ms = 0
        self._draining = False
        self._lanes: dict[int, RouteLane] = {}
        self._retired: list[RouteLane] = []
        self._set_routes(spec.table)

    def run(self) -> int:
        """Turn until there is nothing left to do."""
        poller = select.poll()
        poller.register(self._spec.wake.fileno(), select.POLLIN)
        poller.register(self._link.fileno(), select.POLLIN)
        while True:
            self._link.beat(monotonic_ms())
            if self._obey():
                return 0
            more = self._turn()
            if self._draining and not more and self._is_idle():
                self._link.set_state(ChildState.DRAINED)
                return 0
            if not more:
                poller.poll(self._wait_ms())
            self._spec.wake.clear()

    def _obey(self) -> bool:
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
        return False

    def _turn(self) -> bool:
        """Do what can be done now; return True if there is more that needs no waiting for."""
        more = self._read_rings()
        self._complete()
        started = self._start_batches()
        self._release()
        self._gauge()
        return more or started

    def _read_rings(self) -> bool:
        more = False
        for reader, ledger in zip(self._spec.readers, self._ledgers, strict=True):
            for _ in range(FRAMES_A_TURN_MAX):
                frame = reader.read()
                if frame is None:
                    break
                self._distribute(decode_changes(frame[0]), ledger.add(frame[1]))
            else:
                more = True
        return more

    def _distribute(self, changes: list[Change], frame: Frame) -> None:
        row, moment = self._row, monotonic_ms()
        row.add(Counter.CHANGES_READ, len(changes))
        merged = 0
        for slot, lane in self._lanes.items():
            wanted = 1 << slot
            mine = [change for change in changes if change.routes & wanted]
            if mine:
                merged += lane.add(mine, frame, moment)
        row.add(Counter.CHANGES_COALESCED, merged)

    def _complete(self) -> None:
        while self._done:
            lane_id, batch, outcome = self._done.popleft()
            self._owner(lane_id).complete(batch, outcome, monotonic_ms(), now_ms())

    def _owner(self, lane_id: int) -> RouteLane:
        for lane in self._lanes.values():
            if lane.lane_id == lane_id:
                return lane
        return next(lane for lane in self._retired if lane.lane_id == lane_id)

    def _start_batches(self) -> bool:
        started = False
        for lane in (*self._lanes.values(), *self._retired):
            while monotonic_ms() >= self._fetch_after_ms:
                batch = lane.take(monotonic_ms(), flush=self._draining)
                if batch is None:
                    break
                started = True
                try:
                    values = self._fetcher.fetch(
                        [(change.key, change.event) for change, _ in batch.entries],
                        self._spec.delivery.payload_bytes_max,
                    )
                except RedisError as error:
                    self._fetch_failed(error)
                    lane.retry(batch, self._fetch_after_ms)
                    break
                self._fetch_failures = 0
                lane.send(batch, values, monotonic_ms(), now_ms())
        return started

    def _fetch_failed(self, error: RedisError) -> None:
        self._fetch_failures += 1
        wait_ms = self._backoff.wait_ms(self._fetch_failures, random.random)
        self._fetch_after_ms = monotonic_ms() + wait_ms
        self._row.add(Counter.FETCH_ERRORS, 1)
        log.warning("fetch_failed", error=str(error), attempt=self._fetch_failures, retry_in_ms=wait_ms)

    def _release(self) -> None:
        for reader, ledger in zip(self._spec.readers, self._ledgers, strict=True):
            end = ledger.settled()
            if end is not None:
                reader.release(end)

    def _gauge(self) -> None:
        waiting = in_flight = 0
        for lane in (*self._lanes.values(), *self._retired):
            waiting += len(lane.waiting) + len(lane.held)
            in_flight += len(lane.in_flight)
        self._row.set(Counter.KEYS_WAITING, waiting)
        self._row.set(Counter.KEYS_IN_FLIGHT, in_flight)

    def _is_idle(self) -> bool:
        lanes = (*self._lanes.values(), *self._retired)
        return not self._done and all(lane.is_idle() for lane in lanes)

    def _wait_ms(self) -> int:
        """Return how long nothing can happen by itself, in milliseconds, at least 1: no spinning."""
        due = [lane.next_due_ms() for lane in (*self._lanes.values(), *self._retired)]
        times = [max(time, self._fetch_after_ms) for time in due if time is not None]
        if not times:
            return BEAT_MS_MAX
        return max(1, min(BEAT_MS_MAX, min(times) - monotonic_ms()))

    def _set_routes(self, table: RouteTable) -> None:
        """Open lanes for new routes, turn those of changed ones; a route that went finishes what it has."""
        self._retired = [lane for lane in self._retired if not self._closed(lane)]
        lanes: dict[int, RouteLane] = {}
        for slot, route in table.routes.items():
            old = self._lanes.pop(slot, None)
            if old is not None:
                if old.route != route:
                    old.use(route)
                lanes[slot] = old
                continue
            lanes[slot] = RouteLane(
                route,
                self._spec.database,
                self._spec.delivery,
                self._spec.aws,
                self._dead_letters,
                self._row,
                self._done,
                self._spec.wake,
            )
        self._retired.extend(self._lanes.values())
        self._lanes = lanes

    @staticmethod
    def _closed(lane: RouteLane) -> bool:
        if lane.is_idle():
            lane.release_hands()
            return True
        return False
