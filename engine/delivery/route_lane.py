"""A lane with its hands: the target, the threads, the payloads, and what an outcome means for the keys."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from engine.clock import monotonic_ms, now_ms
from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.backlog import Backlog
from engine.delivery.batch import PayloadBuilder, records_in
from engine.delivery.dead_letter import letters_of
from engine.delivery.dispatch import Burial, Completion, Dispatcher
from engine.delivery.lane import Batch, Entry, Lane
from engine.delivery.limit import ConcurrencyLimit, RetryBudget
from engine.delivery.on_failure import failure_sink
from engine.delivery.questions import Fetched
from engine.delivery.retry import Backoff, RetryPolicy, failed_entries, halves, without
from engine.delivery.settle import DURABLE
from engine.delivery.shelf import Shelf
from engine.delivery.targets.lambda_ import LambdaTarget
from engine.model import Failure, Outcome
from engine.observe.logs import get_logger
from engine.ring.counters import Counter, StatusRow
from engine.ring.wake import Wake
from engine.routes import wants

log = get_logger(__name__)

_lane_ids = itertools.count()
REPORT_ITEM_FAILURES = "ReportBatchItemFailures"
EVERY_KEY = 1 << 62
WAITING_BATCHES_MAX = 4
"""Batches that wait in memory before more is taken back from disk."""
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

    def __init__(self, route: RouteSettings, kit: LaneKit) -> None:
        super().__init__(batch_size=1, window_ms=0, slots=1)
        self.lane_id = next(_lane_ids)
        self.flying: list[Batch] = []
        """Batches whose invocation was started and has not ended."""
        self.shelf = Shelf(kit.backlog, route.name)
        self.heirs: tuple[RouteLane, ...] = ()
        """Lanes of routes that a reload has made, which take the keys that this one's route does not want any more."""
        self.include_expiry = False
        self.is_retired = False
        self.is_troubled = False
        """Whether the newest outcome was a failure of the route as a whole."""
        self._kit = kit
        self._row = kit.row
        self._lost_fence_ms = 0
        self._shelf_due_ms = 0
        # Times on disk are Unix times, but must not jump while we live.
        self._unix_ahead_ms = now_ms() - monotonic_ms()
        self._dispatcher: Dispatcher | None = None
        self._target: LambdaTarget | None = None
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
        self.window_ms = round(route.maximum_batching_window_in_seconds * 1_000)
        self._limit.resize(route.parallelization_factor)
        self.slots = self._limit.slots
        self.failures_in_row = self.paused_until_ms = 0
        self.is_troubled = False
        age_s = route.maximum_record_age_in_seconds
        self._policy = RetryPolicy(route.maximum_retry_attempts, age_s * 1_000 if age_s >= 0 else -1)
        self.include_expiry = route.include_expiry
        self._builder = PayloadBuilder(route, kit.database, kit.delivery.payload_bytes_max)
        # A function of the original's knows no deadline: it may write for as long as it may run.
        bounded_ms = kit.delivery.deadline_ms + kit.delivery.deadline_margin_ms
        self._fence_after_ms = kit.delivery.invoke_timeout_ms if is_original else bounded_ms
        threads = route.parallelization_factor
        self._target = LambdaTarget(
            route.function,
            kit.aws,
            kit.delivery,
            report_item_failures=not is_original and REPORT_ITEM_FAILURES in route.function_response_types,
            connections_max=threads,
        )
        sink = failure_sink(route, kit.delivery, kit.aws)
        self._dispatcher = Dispatcher(self.lane_id, self._target, sink, threads, kit.done, kit.wake)

    def release_hands(self) -> None:
        """Let the threads end once their invocations have, and their connections with them."""
        if self._dispatcher is not None and self._target is not None:
            self._dispatcher.close()
            self._target.close()

    # Reloads

    def leave_to(self, heirs: tuple[RouteLane, ...], *, is_retired: bool) -> None:
        """Leave keys to the lanes of new routes; what is in flight here they don't take before that has ended.

        Otherwise one key could be in flight twice to one function, and its older value arrive last.
        """
        self.is_retired = is_retired
        self.heirs = (*(heir for heir in self.heirs if not heir.is_retired), *heirs)
        for heir in heirs:
            heir.barred.update((key, self) for key in self.in_flight if key not in heir.in_flight)

    def hand_over(self, batch: Batch, moment_ms: int) -> None:
        """Give the keys of a batch that was taken here to the heirs that want them; the rest stays in it."""
        kept: list[Entry] = []
        given: list[Entry] = []
        for entry in batch.entries:
            key, event = entry[0].key, entry[0].event
            is_ours = not self.is_retired and self.wants(key, event)
            takers = [] if is_ours else [heir for heir in self.heirs if heir.wants(key, event)]
            refused = [heir for heir in takers if not heir.inherit(entry, moment_ms)]
            (given if takers and not refused else kept).append(entry)
        self.settle(given)
        batch.entries = kept
        if self.is_idle() and not len(self.shelf):
            self.heirs = ()

    def inherit(self, entry: Entry, moment_ms: int) -> bool:
        """Take a key over from another lane; False where that has it on disk, and this one can't have."""
        change, frame = entry
        if frame is DURABLE and self.shelf.put([entry]):
            return False
        self.add([msgspec.structs.replace(change)], frame, moment_ms)
        return True

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
        batch.entries = batch.sent = built.sent
        batch.payload = built.payload
        batch.fence_ms = moment_ms + self._fence_after_ms
        # Before it is sent: whoever takes over from us must know.
        row.set(Counter.FENCE_MS, max(row.get(Counter.FENCE_MS), batch.fence_ms))
        self.flying.append(batch)
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
        self.shelf.settled(self, entries)
        super().settle(entries)

    def _delivered(self, entries: Sequence[Entry], unix_ms: int) -> None:
        if not entries:
            return
        lags = [unix_ms - entry[0].captured_ms for entry in entries]
        row = self._row
        row.add(Counter.RECORDS_DELIVERED, len(entries))
        row.add(Counter.LAG_MS_SUM, max(0, sum(lags)))
        row.set(Counter.LAG_MS_MAX, max(row.get(Counter.LAG_MS_MAX), *lags))
        self.settle(entries)

    def _failed(self, sent: Batch, failed: list[Entry], outcome: Outcome, moment_ms: int, unix_ms: int) -> None:
        """Decide on the entries that failed: in halves, given up, or again."""
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
        while (batch := super().take(now_ms, flush=flush)) is not None and batch.verdict is not None:
            self._bury(batch, batch.verdict, now_ms + self._unix_ahead_ms)
        return batch

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

    def shelve(self, moment_ms: int, keys_max: int, *, with_waiting: bool) -> None:
        """Have no ring wait for this lane: make durable what it retries, and move what waits out of memory too."""
        if moment_ms < self._shelf_due_ms:
            return
        problem = self.shelf.free_retries(self)
        if with_waiting:
            problem = problem or self.shelf.free_flying(self, self.flying) or self.shelf.move_waiting(self, keys_max)
        if problem:
            self._shelf_due_ms = moment_ms + SHELF_RETRY_MS
            self._row.add(Counter.BACKLOG_REFUSED, 1)
            log.error("backlog_refused", route=self.route.name, problem=problem)

    def take_back(self, moment_ms: int) -> None:
        """Take keys back from disk while there is a slot for them, behind those that wait in memory."""
        is_ready = self.invocations < self.slots and moment_ms >= self.paused_until_ms
        if is_ready and len(self.shelf) and len(self.waiting) < WAITING_BATCHES_MAX * self.batch_size:
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
