"""Functions in place of threads and AWS: outcomes by the seed; effects at scripted times, some after the outcome."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.dispatch import Burial, Buried, Completion, Delivered
from engine.delivery.failures.dead_letter import DeadLetter
from engine.delivery.lanes.work import Batch
from engine.delivery.sockets import Sockets
from engine.model import Failure, Outcome
from engine.ring.wake import Wake
from tests.simulation.cache import Cache
from tests.simulation.destination import Destination, Invocation
from tests.simulation.world import World

MODES: dict[str, dict[str, int]] = {
    "well": {"ok": 84, "items": 4, "error": 3, "throttled": 2, "timeout": 2, "lost": 3, "unsent": 2},
    "sick": {"ok": 10, "items": 30, "error": 30, "service": 15, "timeout": 10, "lost": 5},
    "down": {"service": 50, "refused": 25, "unsent": 25},
    "throttling": {"ok": 25, "throttled": 75},
    "hung": {"timeout": 50, "lost": 40, "ok": 10},
    "odd": {"malformed": 30, "unknown": 20, "oversize": 20, "lost": 10, "ok": 20},
}
"""By the state of a function: how often what becomes of an invocation."""
SPEEDS_MS = (5, 60, 900)


@dataclass(frozen=True)
class FakeTarget:
    """Stands for `LambdaTarget`: what a dispatcher has to know of the function."""

    world: World
    function: str
    delivery: DeliverySettings
    reports_items: bool

    def now_ms(self) -> int:
        """Return the service's time, which is right."""
        return self.world.true_ms

    def close(self) -> None:
        """Close nothing."""


class FakeSink:
    """Keeps dead letters, where the disk does."""

    def __init__(self, world: World) -> None:
        self.world = world

    def write(self, letters: Sequence[DeadLetter]) -> str:
        """Keep these, or say why not."""
        assert letters
        return "the disk is full" if self.world.is_disk_full else ""


class Functions:
    """All functions; one whose name is ``alpha:2`` writes to the table ``alpha``."""

    def __init__(self, world: World, cache: Cache, destination: Destination) -> None:
        self.world = world
        self.cache = cache
        self.destination = destination
        self.modes: dict[str, str] = {}
        self.poison: set[bytes] = set()
        """Keys that every function refuses."""

    def target(self, route: RouteSettings, _aws: AwsSettings, delivery: DeliverySettings) -> FakeTarget:
        """Make what stands for `LambdaTarget`."""
        reports = route.payload != "original" and bool(route.function_response_types)
        return FakeTarget(self.world, route.function, delivery, reports)

    def sink(self, _route: RouteSettings, _delivery: DeliverySettings, _aws: AwsSettings) -> FakeSink:
        """Make what stands for the place of a route's dead letters."""
        return FakeSink(self.world)

    def dispatcher(
        self,
        lane_id: int,
        target: FakeTarget,
        sink: FakeSink,
        _threads: int,
        done: deque[Completion],
        _wake: Wake,
        _sockets: Sockets,
    ) -> FakeDispatcher:
        """Make what stands for a lane's threads."""
        return FakeDispatcher(self, lane_id, target, sink, done)


@dataclass(frozen=True)
class Fate:
    """What becomes of an invocation: (when, key) of its writes, when its outcome comes, and what that says."""

    writes: list[tuple[int, bytes]]
    told_ms: int
    outcome: Outcome


class FakeDispatcher:
    """Stands for one lane's threads."""

    def __init__(
        self, functions: Functions, lane_id: int, target: FakeTarget, sink: FakeSink, done: deque[Completion]
    ) -> None:
        self._functions = functions
        self._world = functions.world
        self._lane_id = lane_id
        self._target = target
        self._sink = sink
        self._done = done
        self._table = target.function.partition(":")[0]
        self._sent: dict[bytes, int] = {}

    def close(self) -> None:
        """End nothing: what was begun goes on."""

    def submit(self, job: Batch | Burial) -> None:
        """Start an invocation or a burial; the process may be killed just before or after it."""
        self._world.point()
        if isinstance(job, Burial):
            self._world.after(self._world.rng.randint(1, 50), lambda: self._bury(job))
        else:
            self._invoke(job)
        self._world.point()

    def _bury(self, burial: Burial) -> None:
        problem = self._sink.write(burial.letters)
        if not problem:
            buried = self._functions.destination.buried
            for key, _ in burial.entries:
                place = (self._table, key)
                seq = self._sent.get(key, self._functions.cache.read.get(key, 0))
                buried[place] = max(seq, buried.get(place, 0))
        self._done.append(Buried(self._lane_id, burial, problem))

    def _invoke(self, batch: Batch) -> None:
        world, delivery, reads = self._world, self._target.delivery, self._functions.cache.read
        event = orjson.loads(batch.payload)
        records = event.get("records", [event])
        keys = [record["id"].encode() for record in records]
        assert keys == [key for key, _ in batch.sent]
        self._sent.update((key, reads[key]) for key in keys)
        is_original = "records" not in event
        write_ms = delivery.invoke_timeout_ms if is_original else delivery.deadline_ms + delivery.deadline_margin_ms
        invocation = Invocation(self._table, {key: reads[key] for key in keys}, world.mono_ms + write_ms)
        invocation.bodies = dict(zip(keys, (record["body"] for record in records), strict=True))
        self._functions.destination.started(invocation)
        for record, key in zip(records, keys, strict=True):
            if not is_original:
                self._functions.destination.versioned(key, record["version"], reads[key])
        starts_ms = delivery.invoke_timeout_ms if is_original else event["deadline_ms"] - world.true_ms
        fate = Fates(self._functions, self._target, self._table, keys, starts_ms, is_original=is_original).draw()
        for at_ms, key in fate.writes:
            world.after(at_ms, self._writing(invocation, key))
        world.after(fate.told_ms, lambda: self._end(invocation, batch, fate.outcome))

    def _writing(self, invocation: Invocation, key: bytes) -> Callable[[], None]:
        return lambda: self._functions.destination.write(invocation, key)

    def _end(self, invocation: Invocation, batch: Batch, outcome: Outcome) -> None:
        invocation.is_over = not outcome.is_lost
        self._done.append(Delivered(self._lane_id, batch, outcome))


class Fates:
    """Draws what becomes of one invocation."""

    def __init__(
        self,
        functions: Functions,
        target: FakeTarget,
        table: str,
        keys: list[bytes],
        starts_ms: int,
        *,
        is_original: bool,
    ) -> None:
        self._rng = functions.world.rng
        self._poison = functions.poison
        self._weights = MODES[functions.modes.get(table, "well")]
        self._target = target
        self._keys = keys
        self._starts_ms = starts_ms
        self._effect_ms = 0 if is_original else target.delivery.deadline_margin_ms
        self._speed_ms = self._rng.choice(SPEEDS_MS)

    def draw(self) -> Fate:
        """Return one fate by the function's state."""
        kind = self._rng.choices(list(self._weights), list(self._weights.values()))[0]
        if kind == "oversize" and len(self._keys) == 1 and self._rng.random() < 0.8:
            kind = "ok"
        fate: Fate = getattr(self, f"_{kind}")()
        return fate

    def _ok(self, failing: float = 0.0) -> Fate:
        failed, writes = [], []
        for index, key in enumerate(self._keys):
            start_ms = self._rng.randint(1, self._speed_ms)
            is_refused = key in self._poison or self._rng.random() < failing
            # No write starts after the deadline; what has started takes effect within the margin.
            if start_ms <= self._starts_ms and not (is_refused and self._rng.random() < 0.8):
                writes.append((start_ms + self._rng.randint(0, min(self._effect_ms, self._speed_ms)), key))
            if start_ms > self._starts_ms or is_refused:
                failed.append(str(index))
        told_ms = max([self._rng.randint(1, self._speed_ms), *(at_ms for at_ms, _ in writes)])
        if not failed:
            return Fate(writes, told_ms, Outcome())
        if not self._target.reports_items:
            return Fate(writes, told_ms, Outcome(Failure.FUNCTION_ERROR, reason="raised"))
        return Fate(writes, told_ms, Outcome(Failure.ITEMS, tuple(failed), "some failed"))

    def _items(self) -> Fate:
        return self._ok(failing=0.5)

    def _answered(self, outcome: Outcome) -> Fate:
        """Have some keys written, and this told when all is over."""
        writes = [one for one in self._ok().writes if self._rng.random() < 0.5]
        return Fate(writes, max([self._rng.randint(1, 50), *(at_ms for at_ms, _ in writes)]), outcome)

    def _error(self) -> Fate:
        return self._answered(Outcome(Failure.FUNCTION_ERROR, reason="raised"))

    def _malformed(self) -> Fate:
        return self._answered(Outcome(Failure.BAD_ANSWER, reason="not JSON"))

    def _unknown(self) -> Fate:
        names = self._rng.choice([("0", "no such"), ("999",), ("0", "00")])
        return self._answered(Outcome(Failure.ITEMS, names, "unknown"))

    def _unheard(self, outcome: Outcome, told_ms: int) -> Fate:
        """Have some keys written as late as may be, whenever the outcome is told."""
        writes = []
        for key in self._keys:
            if self._rng.random() < 0.6:
                start_ms = self._rng.randint(max(1, self._starts_ms * 2 // 3), self._starts_ms)
                writes.append((start_ms + self._rng.randint(0, self._effect_ms), key))
        return Fate(writes, told_ms, outcome)

    def _timeout(self) -> Fate:
        return self._unheard(
            Outcome(Failure.TIMEOUT, reason="no answer", is_lost=True), self._target.delivery.invoke_timeout_ms
        )

    def _lost(self) -> Fate:
        return self._unheard(
            Outcome(Failure.CONNECTION, reason="reset", is_lost=True), self._rng.randint(1, self._starts_ms)
        )

    def _refusal(self, outcome: Outcome) -> Fate:
        return Fate([], self._rng.randint(1, 40), outcome)

    def _throttled(self) -> Fate:
        wait_ms = self._rng.choice([0, 0, 1_000])
        return self._refusal(Outcome(Failure.THROTTLED, reason="429", retry_after_ms=wait_ms))

    def _service(self) -> Fate:
        return self._refusal(Outcome(Failure.SERVICE, reason="503"))

    def _refused(self) -> Fate:
        return self._refusal(Outcome(Failure.REFUSED, reason="no such function"))

    def _unsent(self) -> Fate:
        return self._refusal(Outcome(Failure.CONNECTION, reason="no way there"))

    def _oversize(self) -> Fate:
        return self._refusal(Outcome(Failure.OVERSIZE, reason="413"))
