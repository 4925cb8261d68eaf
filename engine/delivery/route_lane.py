"""A lane with its hands: the target, the threads, the payloads, and what an outcome means for the keys."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Sequence

from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.batch import PayloadBuilder
from engine.delivery.dead_letter import DeadLetterFile
from engine.delivery.dispatch import Completion, Dispatcher
from engine.delivery.lane import Batch, Entry, Lane
from engine.delivery.questions import Fetched
from engine.delivery.retry import Backoff, RetryPolicy
from engine.delivery.targets.lambda_ import LambdaTarget
from engine.model import Failure, Outcome
from engine.observe.logs import get_logger
from engine.ring.counters import Counter, StatusRow
from engine.ring.wake import Wake

log = get_logger(__name__)

_lane_ids = itertools.count()
REPORT_ITEM_FAILURES = "ReportBatchItemFailures"


class RouteLane(Lane):
    """One route in one invoker. ``lane_id`` is never used twice in a process, unlike a route's slot."""

    def __init__(
        self,
        route: RouteSettings,
        database: int,
        delivery: DeliverySettings,
        aws: AwsSettings,
        dead_letters: DeadLetterFile,
        row: StatusRow,
        done: deque[Completion],
        wake: Wake,
    ) -> None:
        super().__init__(batch_size=1, window_ms=0, slots=1)
        self.lane_id = next(_lane_ids)
        self._database = database
        self._delivery = delivery
        self._aws = aws
        self._done = done
        self._wake = wake
        self._dispatcher: Dispatcher | None = None
        self._target: LambdaTarget | None = None
        self._backoff = Backoff(delivery.retry_backoff_ms_min, delivery.retry_backoff_ms_max)
        self._dead_letters = dead_letters
        self._row = row
        self.use(route)

    def use(self, route: RouteSettings) -> None:
        """Deliver by these settings from now on.

        The lane keeps its keys: what waits or failed goes the new way, and a key that is in flight the old way
        still keeps its next value back. A pause was the old function's.
        """
        self.release_hands()
        is_original = route.payload == "original"
        self.route = route
        self.batch_size = 1 if is_original else route.batch_size
        self.window_ms = round(route.maximum_batching_window_in_seconds * 1_000)
        self.slots = route.parallelization_factor
        self.failures_in_row = self.paused_until_ms = 0
        age_s = route.maximum_record_age_in_seconds
        self._policy = RetryPolicy(route.maximum_retry_attempts, age_s * 1_000 if age_s >= 0 else -1)
        self._builder = PayloadBuilder(route, self._database, self._delivery.payload_bytes_max)
        self._target = LambdaTarget(
            route.function,
            self._aws,
            self._delivery,
            report_item_failures=not is_original and REPORT_ITEM_FAILURES in route.function_response_types,
            connections_max=route.parallelization_factor,
        )
        self._dispatcher = Dispatcher(self.lane_id, self._target, self.slots, self._done, self._wake)

    def release_hands(self) -> None:
        """Let the threads end once their invocations have, and their connections with them."""
        if self._dispatcher is not None and self._target is not None:
            self._dispatcher.close()
            self._target.close()

    def send(self, batch: Batch, values: Sequence[Fetched], moment_ms: int, unix_ms: int) -> None:
        """Make the payload and start its invocation; settle, defer or refuse what does not go into it.

        ``values`` may be those of the first entries only, where more would not have fitted anyway.
        """
        row = self._row
        unread = batch.entries[len(values) :]
        if unread:
            batch.entries = batch.entries[: len(values)]
        row.add(Counter.KEYS_FETCHED, len(values))
        retyped = sum(1 for value in values if value.retyped)
        built = self._builder.build(batch.entries, values)
        row.add(Counter.KEYS_RETYPED, retyped)
        row.add(Counter.KEYS_GONE, len(built.settled))
        self.settle(built.settled)
        for entry, reason in built.refused:
            self._bury([entry], batch.attempts, reason, moment_ms, unix_ms)
        self.retry(Batch(built.deferred + unread, batch.attempts), moment_ms)
        if not built.sent:
            return
        batch.entries = batch.sent = built.sent
        batch.payload = built.payload
        self.invocations += 1
        row.add(Counter.INVOCATIONS, 1)
        row.add(Counter.PAYLOAD_BYTES, len(built.payload))
        row.record_batch_size(len(built.sent))
        assert self._dispatcher is not None
        self._dispatcher.submit(batch)

    def complete(self, batch: Batch, outcome: Outcome, moment_ms: int, unix_ms: int) -> None:
        """Settle what was accepted; see that the rest is delivered again, or kept as dead letters."""
        self.invocations -= 1
        batch.payload = b""
        failed, outcome = self._failed_entries(batch, outcome)
        if outcome.failure is Failure.NONE or outcome.failure is Failure.ITEMS:
            self.failures_in_row = 0
        accepted = batch.entries if not failed else self._without(batch.entries, failed)
        self._delivered(accepted, unix_ms)
        if failed:
            self._row.add(Counter.INVOCATIONS_FAILED, 1)
            self._failed(Batch(failed, batch.attempts), outcome, moment_ms, unix_ms)

    @staticmethod
    def _failed_entries(batch: Batch, outcome: Outcome) -> tuple[list[Entry], Outcome]:
        """Return which entries failed; an identifier that we never sent fails the whole batch."""
        if outcome.failure is Failure.NONE:
            return [], outcome
        if outcome.failure is not Failure.ITEMS:
            return batch.entries, outcome
        if not outcome.failed_ids:
            return [], Outcome()
        indexes = {int(name) for name in outcome.failed_ids if name.isascii() and name.isdigit()}
        known = len(indexes) == len(set(outcome.failed_ids)) and max(indexes) < len(batch.sent)
        if not known:
            reason = "batchItemFailures names a record that was not in the batch"
            return batch.entries, Outcome(Failure.BAD_ANSWER, reason=reason)
        return [batch.sent[index] for index in sorted(indexes)], outcome

    @staticmethod
    def _without(entries: Sequence[Entry], failed: Sequence[Entry]) -> list[Entry]:
        keys = {entry[0].key for entry in failed}
        return [entry for entry in entries if entry[0].key not in keys]

    def _delivered(self, entries: Sequence[Entry], unix_ms: int) -> None:
        if not entries:
            return
        lags = [unix_ms - entry[0].captured_ms for entry in entries]
        row = self._row
        row.add(Counter.RECORDS_DELIVERED, len(entries))
        row.add(Counter.LAG_MS_SUM, max(0, sum(lags)))
        row.set(Counter.LAG_MS_MAX, max(row.get(Counter.LAG_MS_MAX), *lags))
        self.settle(entries)

    def _failed(self, batch: Batch, outcome: Outcome, moment_ms: int, unix_ms: int) -> None:
        """Find the place of the full treatment: bisecting, destinations and the backlog attach here."""
        if outcome.failure is Failure.OVERSIZE and len(batch.entries) > 1:
            half = len(batch.entries) // 2
            self.retry(Batch(batch.entries[:half], batch.attempts), moment_ms)
            self.retry(Batch(batch.entries[half:], batch.attempts), moment_ms)
            return
        policy = self._policy
        counts = policy.counts(outcome)
        batch.attempts += counts
        if outcome.failure is Failure.OVERSIZE or policy.gives_up(batch.attempts):
            self._bury(batch.entries, batch.attempts, self._reason(outcome), moment_ms, unix_ms)
            return
        old = [entry for entry in batch.entries if policy.is_too_old(entry[0].captured_ms, unix_ms)]
        if old:
            self._bury(old, batch.attempts, f"past its age: {self._reason(outcome)}", moment_ms, unix_ms)
            batch.entries = self._without(batch.entries, old)
        self._again(batch, outcome, counts, moment_ms)

    def _again(self, batch: Batch, outcome: Outcome, counts: bool, moment_ms: int) -> None:
        if outcome.failure is Failure.THROTTLED:
            self._row.add(Counter.INVOCATIONS_THROTTLED, 1)
        if counts:
            wait_ms = self._backoff.wait_ms(batch.attempts, random.random)
        else:
            self.failures_in_row += 1
            wait_ms = self._backoff.wait_ms(self.failures_in_row, random.random)
            wait_ms = max(wait_ms, outcome.retry_after_ms)
            self.pause(moment_ms + wait_ms)
        self._row.add(Counter.RECORDS_RETRIED, len(batch.entries))
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

    def _bury(self, entries: list[Entry], attempts: int, reason: str, moment_ms: int, unix_ms: int) -> None:
        """Settle as dead letters; where they can't be kept, keep the records and try again later."""
        route = self.route
        problem = self._dead_letters.write(route.name, route.function, entries, attempts, reason, unix_ms)
        if problem:
            log.error("dead_letter_not_kept", route=route.name, problem=problem, records=len(entries))
            self.retry(Batch(entries, attempts), moment_ms + self._backoff.ms_max)
            return
        self._row.add(Counter.DEAD_LETTERS, len(entries))
        log.error("dead_letter", route=route.name, reason=reason, records=len(entries))
        self.settle(entries)

    @staticmethod
    def _reason(outcome: Outcome) -> str:
        return f"{outcome.failure.name.lower()}: {outcome.reason}"
