"""A lane with its hands: the target, the threads, the payloads, and what an outcome means for the keys."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.clock import monotonic_ms, now_ms
from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.backlog.backlog import Backlog
from engine.delivery.backlog.shelf import EASED_ROWS, ROWS_AT_ONCE, Shelf
from engine.delivery.dispatch import Burial, Completion, Dispatcher
from engine.delivery.failures.dead_letter import letters_of
from engine.delivery.failures.places import failure_sink
from engine.delivery.lanes.batch import PayloadBuilder, records_in
from engine.delivery.lanes.lane import Batch, Entry, Lane
from engine.delivery.lanes.limit import ConcurrencyLimit, RetryBudget
from engine.delivery.lanes.retry import Backoff, RetryPolicy, failed_entries, halves, without
from engine.delivery.lanes.settle import Frame
from engine.delivery.reading.questions import Fetched
from engine.delivery.targets.base import Target
from engine.delivery.targets.make import make_target
from engine.model import Change, Failure, Outcome
from engine.observe.logs import get_logger
from engine.ring.counters import Counter, StatusRow
from engine.ring.wake import Wake
from engine.routing.routes import wants

log = get_logger(__name__)

_lane_ids = itertools.count()
EVERY_KEY = 1 << 62
WAITING_BATCHES_MAX = 4
"""Batches that wait in memory before more is taken back from disk."""
FAIR_BATCHES = 10
"""Of so many batches one is of keys from disk, also while more wait in memory."""
START_LOOK_MS = 10
"""How soon a lane that may not start yet looks again."""
FLIGHT_MS_SHORT = 1_000
"""An invocation that is not answered for longer must not hold up a ring."""
SHELF_RETRY_MS = 1_000
"""A disk that refused is asked again after this long."""


@dataclass(frozen=True, slots=True)
class LaneKit:
    """What all lanes of an invoker share."""

    database: int
    delivery: DeliverySettings
    aws: AwsSettings
    backlog: Backlog
    row: StatusRow
    done: deque[Completion]
    wake: Wake


class RouteLane(Lane):
    """One route in one invoker. ``lane_id`` is never used twice in a process, unlike a route's slot."""

    def __init__(self, route: RouteSettings, kit: LaneKit, version: int = 1, elders: Sequence[RouteLane] = ()) -> None:
        super().__init__(batch_size=1, window_ms=0, slots=1)
        self.lane_id = next(_lane_ids)
        self.flying: list[Batch] = []
        """Batches whose invocation was started and has not ended."""
        self.shelf = Shelf(kit.backlog, route.name)
        self.version = version
        """Of the route table that made this lane."""
        self.retired_by = 0
        """The version of the route table that took its route away; 0 while it is in force."""
        self.strays: list[Entry] = []
        """What a retired lane has not delivered: for the lanes that came after it."""
        self.is_shelf_sorted = False
        """Whether all that is on disk under the route's name is known to be wanted by it."""
        self.include_expiry = False
        self.is_troubled = False
        """Whether the newest outcome was a failure of the route as a whole."""
        self._kit = kit
        self._row = kit.row
        self._elders = tuple(elders)
        self._lost_fence_ms = 0
        self._starts_at_ms = 0
        self._batches = 0
        """Sent since keys were taken back from disk."""
        self._shelf_due_ms = 0
        # Times on disk are Unix times, but must not jump while we live.
        self._unix_ahead_ms = now_ms() - monotonic_ms()
        self._dispatcher: Dispatcher | None = None
        self._target: Target | None = None
        self._backoff = Backoff(kit.delivery.retry_backoff_ms_min, kit.delivery.retry_backoff_ms_max)
        self._limit = ConcurrencyLimit(route.parallelization_factor)
        self._budget = RetryBudget()
        self.use(route)

    def use(self, route: RouteSettings) -> None:
        """Deliver by these settings from now on.

        The lane keeps its keys: what waits or failed goes the new way, and a key that is in flight the old way
        still keeps its next value back. A pause was the old function's.
        """
        self.release_hands()
        self.wants = wants(route)
        kit, is_original = self._kit, route.payload == "original"
        self.route = route
        self.batch_size = 1 if is_original else route.batch_size
        self.coalesces = route.coalesce
        self.window_ms = round(route.maximum_batching_window_in_seconds * 1_000)
        self._limit.resize(route.parallelization_factor)
        self.slots = self._limit.slots
        self.failures_in_row = self.paused_until_ms = 0
        self.is_troubled = False
        age_s = route.maximum_record_age_in_seconds
        self._policy = RetryPolicy(route.maximum_retry_attempts, age_s * 1_000 if age_s >= 0 else -1)
        self.include_expiry = route.include_expiry
        self._builder = PayloadBuilder(route, kit.database, kit.delivery.payload_bytes_max)
        self.deletes = self._builder.deletes
        # A function of the original's knows no deadline: it may write for as long as it may run.
        bounded_ms = kit.delivery.deadline_ms + kit.delivery.deadline_margin_ms
        self._fence_after_ms = kit.delivery.invoke_timeout_ms if is_original else bounded_ms
        threads = route.parallelization_factor
        self._target = make_target(route, kit.aws, kit.delivery)
        sink = failure_sink(route, kit.delivery, kit.aws)
        self._dispatcher = Dispatcher(self.lane_id, self._target, sink, threads, kit.done, kit.wake)

    def release_hands(self) -> None:
        """Let the threads end once their invocations have, and their connections with them."""
        if self._dispatcher is not None and self._target is not None:
            self._dispatcher.close()
            self._target.close()

    def start_at(self, moment_ms: int) -> None:
        """Start nothing before this time (monotonic): invocations that nobody knows may be delivering these keys."""
        self._starts_at_ms = moment_ms

    # Reloads

    def retire(self, version: int) -> None:
        """Send nothing more: what is in flight ends here, all else is for lanes that came after this one."""
        self.retired_by = version
        given_up = [one for one in self.retries if one[2].verdict is not None]
        left = [one[2] for one in self.retries if one[2].verdict is None]
        self.retries = given_up
        self.retrying_keys = sum(len(batch.entries) for _, _, batch in given_up)
        for batch in left:
            self.in_flight.difference_update(change.key for change, _ in batch.entries)
            self.strays += batch.entries
        self.strays += [*self.waiting.values(), *self.held.values()]
        self.waiting, self.held = {}, {}

    def may_still_write(self, moment_ms: int) -> bool:
        """Tell whether an invocation of this lane may yet have an effect."""
        return bool(self.flying) or moment_ms < max(self._lost_fence_ms, self._starts_at_ms)

    def is_over(self, moment_ms: int) -> bool:
        """Tell whether this retired lane has nothing more to do, and nothing more to be waited for."""
        return self.is_idle() and not self.strays and not self.may_still_write(moment_ms)

    # The way out

    def fence_ms(self) -> int:
        """Return until when (monotonic ms) an invocation of this lane may write; 0 where none can."""
        return max([self._lost_fence_ms, *(batch.fence_ms for batch in self.flying)])

    def send(self, batch: Batch, values: Sequence[Fetched], moment_ms: int, unix_ms: int) -> None:
        """Make the payload and start its invocation; settle, defer or refuse what does not go into it.

        ``values`` may be those of the first entries only, where more would not have fitted anyway.
        """
        assert self._dispatcher is not None and self._target is not None
        row = self._row
        unread = batch.entries[len(values) :]
        if unread:
            batch.entries = batch.entries[: len(values)]
        row.add(Counter.KEYS_FETCHED, len(values))
        retyped = sum(1 for value in values if value.retyped)
        deadline_ms = self._target.now_ms() + self._kit.delivery.deadline_ms
        built = self._builder.build(batch.entries, values, deadline_ms)
        row.add(Counter.KEYS_RETYPED, retyped)
        row.add(Counter.KEYS_GONE, len(built.settled))
        self.settle(built.settled)
        for entry, reason in built.refused:
            self._bury(Batch([entry], batch.attempts), Outcome(reason=reason), unix_ms)
        self.retry(Batch(built.deferred + unread, batch.attempts), moment_ms)
        if not built.sent:
            return
        batch.sent = built.sent
        batch.entries = built.sent if self.coalesces else built.entries()
        for entry, events in built.left:
            self.hold_back(entry, events)
        batch.payload = built.payload
        batch.fence_ms = moment_ms + self._fence_after_ms
        # Before it is sent: whoever takes over from us must know.
        row.set(Counter.FENCE_MS, max(row.get(Counter.FENCE_MS), batch.fence_ms))
        self.flying.append(batch)
        self._batches += 1
        self.invocations += 1
        row.add(Counter.INVOCATIONS, 1)
        row.add(Counter.PAYLOAD_BYTES, len(built.payload))
        row.record_batch_size(len(built.sent))
        self._dispatcher.submit(batch)

    # The way back

    def complete(self, batch: Batch, outcome: Outcome, moment_ms: int, unix_ms: int) -> None:
        """Settle what was accepted; see that the rest is delivered again, or kept as dead letters."""
        self.invocations -= 1
        self.flying.remove(batch)
        if not outcome.is_lost:
            batch.fence_ms = 0
        self._lost_fence_ms = max(self._lost_fence_ms, batch.fence_ms)
        failed, outcome = failed_entries(batch, outcome)
        self._learn(outcome, moment_ms)
        self._delivered(batch.entries if not failed else without(batch.entries, failed), unix_ms)
        if failed:
            self._row.add(Counter.INVOCATIONS_FAILED, 1)
            self._failed(batch, failed, outcome, moment_ms, unix_ms)

    def _learn(self, outcome: Outcome, moment_ms: int) -> None:
        """Draw from an outcome what it says of the target."""
        self.is_troubled = outcome.failure not in {Failure.NONE, Failure.ITEMS}
        if not self.is_troubled:
            self.failures_in_row = 0
            self._limit.succeeded()
            self._budget.succeeded()
        elif outcome.failure is Failure.THROTTLED:
            self._row.add(Counter.INVOCATIONS_THROTTLED, 1)
            self._limit.throttled(moment_ms)
        if outcome.is_lost:
            self._row.add(Counter.INVOCATIONS_LOST, 1)
        self.slots = self._limit.slots

    def settle(self, entries: Sequence[Entry]) -> None:
        """End the delivery of these keys, on disk too."""
        if not self.retired_by:
            # Rows under the name of a route that went may be another lane's by now.
            self.shelf.settled(self, entries)
        super().settle(entries)

    def add_fenced(self, changes: Iterable[Change], frame: Frame, due_ms: int) -> None:
        """Mark keys dirty that a lane before this process may still be delivering."""
        self._lost_fence_ms = max(self._lost_fence_ms, due_ms)
        super().add_fenced(changes, frame, due_ms)

    def _delivered(self, entries: Sequence[Entry], unix_ms: int) -> None:
        if not entries:
            return
        lags = [unix_ms - entry[0].captured_ms for entry in entries]
        row = self._row
        row.add(Counter.RECORDS_DELIVERED, len(entries))
        row.add(Counter.LAG_MS_SUM, max(0, sum(lags)))
        row.set(Counter.LAG_MS_MAX, max(row.get(Counter.LAG_MS_MAX), *lags))
        self.settle(entries)

    def _stray(self, entries: Sequence[Entry]) -> None:
        """Leave these, whose invocation has ended, to the lanes that came after this one."""
        self.in_flight.difference_update(change.key for change, _ in entries)
        self.strays += entries

    def _failed(self, sent: Batch, failed: list[Entry], outcome: Outcome, moment_ms: int, unix_ms: int) -> None:
        """Decide on the entries that failed: in halves, given up, or again."""
        if self.retired_by:
            self._stray(failed)
            return
        policy, counts = self._policy, self._policy.counts(outcome)
        batch = Batch(failed, sent.attempts, sent.fence_ms, sent.payload, sent.sent)
        bisects = counts and outcome.failure is not Failure.ITEMS and self.route.bisect_batch_on_function_error
        if len(failed) > 1 and (bisects or outcome.failure is Failure.OVERSIZE):
            # As in event source mappings, to be cut in two is no attempt of the records.
            for half in halves(batch):
                self._again(half, outcome, counts, moment_ms)
            return
        batch.attempts += counts
        if outcome.failure is Failure.OVERSIZE or policy.gives_up(batch.attempts):
            self._give_up(batch, outcome, moment_ms, unix_ms)
            return
        old = [entry for entry in failed if policy.is_too_old(entry[0].captured_ms, unix_ms)]
        if old:
            late = Batch(old, batch.attempts, batch.fence_ms, sent.payload, sent.sent)
            self._give_up(late, outcome, moment_ms, unix_ms, "past maximum_record_age_in_seconds; ")
            batch.entries = without(failed, old)
        if batch.entries:
            self._again(batch, outcome, counts, moment_ms)

    def _again(self, batch: Batch, outcome: Outcome, counts: bool, moment_ms: int) -> None:
        if counts:
            wait_ms = self._backoff.wait_ms(max(1, batch.attempts), random.random)
        else:
            self.failures_in_row += 1
            wait_ms = self._backoff.wait_ms(self.failures_in_row, random.random)
            wait_ms = max(wait_ms, outcome.retry_after_ms)
            self.pause(moment_ms + wait_ms)
        wait_ms = max(wait_ms, self._budget.take(moment_ms), batch.fence_ms - moment_ms)
        batch.payload, batch.sent = b"", []
        self._row.add(Counter.RECORDS_RETRIED, len(batch.entries))
        if not self._park(batch, moment_ms, wait_ms):
            self.retry(batch, moment_ms + wait_ms)
        log.warning(
            "invocation_failed",
            route=self.route.name,
            function=self.route.function,
            failure=outcome.failure.name.lower(),
            reason=outcome.reason,
            records=len(batch.entries),
            attempts=batch.attempts,
            retry_in_ms=wait_ms,
        )

    def _give_up(self, batch: Batch, outcome: Outcome, moment_ms: int, unix_ms: int, note: str = "") -> None:
        """Bury these, but not while their invocation may still write: a newer value must not be there before it."""
        reason = f"{note}{outcome.reason}" if outcome.failure is Failure.NONE else f"{note}{reason_of(outcome)}"
        batch.verdict = Outcome(outcome.failure, reason=reason)
        if batch.fence_ms > moment_ms:
            self.retry(batch, batch.fence_ms)
        else:
            self._bury(batch, batch.verdict, unix_ms)

    def take(self, now_ms: int, *, flush: bool = False) -> Batch | None:
        """Return the next batch that may start now; bury those that are given up and fenced no longer."""
        if not self._may_start(now_ms):
            self.pause(now_ms + START_LOOK_MS)
            return None
        while (batch := super().take(now_ms, flush=flush)) is not None and batch.verdict is not None:
            self._bury(batch, batch.verdict, now_ms + self._unix_ahead_ms)
        return batch

    def _may_start(self, moment_ms: int) -> bool:
        """Tell whether no invocation can still write that others began: lanes before this one, or processes."""
        if self.retired_by:
            return True
        self._elders = tuple(one for one in self._elders if one.may_still_write(moment_ms))
        return moment_ms >= self._starts_at_ms and not self._elders

    def _bury(self, batch: Batch, told: Outcome, unix_ms: int) -> None:
        """Give these up: to the route's place for failures, in a thread; they are in flight until it has them."""
        assert self._dispatcher is not None
        route, records = self.route, records_in(batch.payload, len(batch.sent))
        known = {entry[0].key: record for entry, record in zip(batch.sent, records, strict=True)}
        record_of = [known.get(entry[0].key) for entry in batch.entries]
        letters = letters_of(route.name, route.function, batch.entries, record_of, batch.attempts, told, unix_ms)
        self._dispatcher.submit(Burial(batch.entries, batch.attempts, letters, told.reason))

    def buried(self, burial: Burial, problem: str, moment_ms: int) -> None:
        """Settle what is kept as dead letters; where they can't be kept, keep the records and try again later."""
        name, records = self.route.name, len(burial.entries)
        if problem:
            log.error("dead_letter_not_kept", route=name, problem=problem, records=records)
            if self.retired_by:
                self._stray(burial.entries)
                return
            self.retry(Batch(burial.entries, burial.attempts), moment_ms + self._backoff.ms_max)
            return
        self._row.add(Counter.DEAD_LETTERS, records)
        log.error("dead_letter", route=name, reason=burial.reason, records=records)
        self.settle(burial.entries)

    # The backlog

    def _park(self, batch: Batch, moment_ms: int, wait_ms: int) -> bool:
        """Have a failed batch wait on disk, where memory holds enough of them; what is fenced must stay."""
        if batch.fence_ms > moment_ms or self.retrying_keys < self._kit.delivery.retrying_keys_max:
            return False
        self.fold_held(batch.entries)
        due_ms = moment_ms + wait_ms + self._unix_ahead_ms
        if self.shelf.put(batch.entries, due_ms=due_ms, attempts=batch.attempts):
            return False
        super().settle(batch.entries)
        return True

    def is_held_up(self, moment_ms: int) -> bool:
        """Tell whether keys of this lane wait for something else than their turn."""
        return self.is_troubled or moment_ms < self.paused_until_ms

    def shelve(self, moment_ms: int, *, is_stuck: bool) -> None:
        """Have no ring wait for this lane: make durable what it retries, and move all to disk where it ``is_stuck``."""
        if moment_ms < self._shelf_due_ms:
            return
        problem = self.shelf.free_retries(self)
        if is_stuck:
            problem = problem or self._free_flying(moment_ms) or self.shelf.move_waiting(self, ROWS_AT_ONCE)
        self._shelved(problem, moment_ms)

    def ease(self, moment_ms: int) -> None:
        """Have no ring wait for this lane, which delivers, but too slowly: make durable what has long to wait."""
        if moment_ms < self._shelf_due_ms:
            return
        problem = self._free_flying(moment_ms) or self.shelf.free_waiting(
            self,
            EASED_ROWS,
            after=WAITING_BATCHES_MAX * self.batch_size,
            waiting_keys_max=self._kit.delivery.waiting_keys_max,
        )
        self._shelved(problem, moment_ms)

    def _free_flying(self, moment_ms: int) -> str:
        # What has just set out will be back before a row of it is written.
        until_ms = moment_ms - FLIGHT_MS_SHORT + self._fence_after_ms
        return self.shelf.free_flying(self, [batch for batch in self.flying if batch.fence_ms <= until_ms])

    def _shelved(self, problem: str, moment_ms: int) -> None:
        if problem:
            self._shelf_due_ms = moment_ms + SHELF_RETRY_MS
            self._row.add(Counter.BACKLOG_REFUSED, 1)
            log.error("backlog_refused", route=self.route.name, problem=problem)

    def take_back(self, moment_ms: int) -> None:
        """Take keys back from disk while there is a slot for them, behind those that wait in memory."""
        if self.invocations >= self.slots or moment_ms < self.paused_until_ms or self.retired_by:
            return
        is_idle = len(self.waiting) < WAITING_BATCHES_MAX * self.batch_size
        # What is on disk is older than what waits: under load that never ends it must have its turn too.
        is_due = self._batches >= FAIR_BATCHES and len(self.waiting) < self._kit.delivery.waiting_keys_max
        if (is_idle or is_due) and len(self.shelf) and self.is_shelf_sorted and self._may_start(moment_ms):
            self._batches = 0
            self.shelf.take_back(self, self.batch_size, moment_ms, moment_ms + self._unix_ahead_ms)

    def empty_out(self, moment_ms: int) -> None:
        """For a drain: move everything to disk once nothing is in flight; what the disk refuses stays."""
        if self.flying or moment_ms < self._shelf_due_ms:
            return
        self._shelf_due_ms = moment_ms + SHELF_RETRY_MS
        if self.shelf.free_retries(self) or self.shelf.move_waiting(self, EVERY_KEY):
            return
        if self.shelf.free_flying(self, ()):
            return
        for _, _, batch in self.retries:
            super().settle(batch.entries)
        self.retries.clear()
        self.retrying_keys = 0
        # What was held has a row too.
        self.waiting.clear()


def reason_of(outcome: Outcome) -> str:
    """Return an outcome in words."""
    return f"{outcome.failure.name.lower()}: {outcome.reason}"
