"""A lane's hands: its route's target and place for failures, and the threads that carry batches and letters there."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.backlog.backlog import Backlog
from engine.delivery.dispatch import Burial, Completion, Dispatcher
from engine.delivery.failures.dead_letter import letters_of
from engine.delivery.failures.places import failure_sink
from engine.delivery.lanes.batch import Built, PayloadBuilder, records_in
from engine.delivery.lanes.work import Batch, Entry, Parents
from engine.delivery.reading.questions import Fetched
from engine.delivery.sockets import Sockets
from engine.delivery.targets.make import make_target
from engine.delivery.traces import Tracing
from engine.model import Outcome
from engine.ring.counters import StatusRow
from engine.ring.wake import Wake


@dataclass(frozen=True, slots=True)
class Home:
    """Which keys an invoker has: it is number ``index``, from 0, of this many; ``part`` is the engine's slice."""

    index: int = 0
    invokers: int = 1
    part: str = "0/1"


@dataclass(frozen=True, slots=True)
class LaneKit:
    """What all lanes of an invoker share; ``database`` is that of all keys, None if each key names its own."""

    database: int | None
    delivery: DeliverySettings
    aws: AwsSettings
    backlog: Backlog
    row: StatusRow
    done: deque[Completion]
    wake: Wake
    sockets: Sockets
    home: Home = Home()
    tracing: Tracing | None = None


class Hands:
    """What follows from one route's settings: another route, or changed settings, have other hands."""

    def __init__(self, lane_id: int, route: RouteSettings, kit: LaneKit) -> None:
        delivery = kit.delivery
        self._route, self._database = route, kit.database
        self._deadline_ms = delivery.deadline_ms
        self._builder = PayloadBuilder(route, kit.database, delivery.payload_bytes_max)
        self.deletes, self.explained = self._builder.deletes, self._builder.explained
        # A function written for the original ignores deadlines: it may write for as long as it may run.
        bounded_ms = delivery.deadline_ms + delivery.deadline_margin_ms
        self.fence_after_ms = delivery.invoke_timeout_ms if route.payload == "original" else bounded_ms
        self._target = make_target(route, kit.aws, delivery)
        sink = failure_sink(route, delivery, kit.aws)
        threads = route.parallelization_factor
        self._dispatcher = Dispatcher(lane_id, self._target, sink, threads, kit.done, kit.wake, kit.sockets)

    def release(self) -> None:
        """Let the threads, and their connections, end once their invocations have."""
        self._dispatcher.close()
        self._target.close()

    def build(
        self,
        entries: Sequence[Entry],
        values: Sequence[Fetched],
        parents: Parents,
        *,
        is_unfenced: bool,
    ) -> Built:
        """Return the payload of as many of these as fit; its deadline is by the service's clock."""
        deadline_ms = self._target.now_ms() + self._deadline_ms
        return self._builder.build(entries, values, deadline_ms, parents, is_unfenced=is_unfenced)

    def send(self, batch: Batch) -> None:
        """Start the invocation of a batch that has its payload."""
        self._dispatcher.submit(batch)

    def bury(self, batch: Batch, told: Outcome, unix_ms: int) -> None:
        """Hand these to the route's place for failures, in a thread; they are in flight until they are kept."""
        route, records = self._route, records_in(batch.payload, len(batch.sent))
        known = {key: record for (key, _), record in zip(batch.sent, records, strict=True)}
        record_of = [known.get(key) for key, _ in batch.entries]
        letters = letters_of(
            route.name, route.function, batch.entries, record_of, batch.attempts, told, unix_ms, self._database
        )
        self._dispatcher.submit(Burial(batch.entries, batch.attempts, letters, told))
