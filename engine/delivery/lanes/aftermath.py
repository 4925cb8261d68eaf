"""After an invocation: settles what was accepted, and finds each failed key its place."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from engine.config import RouteSettings
from engine.delivery.backlog.shelf import Shelf
from engine.delivery.dispatch import Burial
from engine.delivery.lanes.fences import Fences
from engine.delivery.lanes.hands import Hands
from engine.delivery.lanes.health import Health
from engine.delivery.lanes.lane import Lane
from engine.delivery.lanes.retry import failed_entries, without
from engine.delivery.lanes.shelving import Shelving
from engine.delivery.lanes.verdict import Again, GivenUp, Restored, Rules, SetAside, reason_of
from engine.delivery.lanes.work import Batch, Entry, in_log, moments_of, such_as
from engine.model import Failure, Outcome
from engine.observe.logs import get_logger
from engine.ring.counters import Counter, StatusRow
from engine.ring.lags import Stage

log = get_logger(__name__)


class Aftermath:
    """One lane's; it decides nothing itself: `Rules` and `Health` do."""

    route: RouteSettings
    _rules: Rules
    _hands: Hands

    def __init__(
        self, keys: Lane, fences: Fences, shelf: Shelf, shelving: Shelving, health: Health, row: StatusRow
    ) -> None:
        self.keys = keys
        self.fences = fences
        self.shelf = shelf
        self.shelving = shelving
        self.health = health
        self.strays: list[Entry] = []
        self._row = row

    def use(self, route: RouteSettings, rules: Rules, hands: Hands) -> None:
        """Use these settings from now on."""
        self.route, self._rules, self._hands = route, rules, hands

    def retire(self) -> None:
        """Leave everything to the lanes after this one, except what is in flight or given up."""
        self._rules = Rules(self._rules.policy, is_retired=True)
        self.strays += self.keys.withdraw()

    def take_strays(self) -> list[Entry]:
        """Return what is left to other lanes; it is the caller's now."""
        strays, self.strays = self.strays, []
        return strays

    def _stray(self, entries: Sequence[Entry]) -> None:
        """Leave these, whose invocation has ended, to the lanes that came after this one."""
        self.keys.in_flight.difference_update([key for key, _ in entries])
        self.strays += entries

    def complete(self, batch: Batch, outcome: Outcome, moment_ms: int, unix_ms: int) -> None:
        """Settle what was accepted; have the rest delivered again, or kept as dead letters."""
        self.keys.ended(batch)
        self.fences.flying.remove(batch)
        if not outcome.is_lost:
            batch.fence_ms = 0
        self.fences.lose(batch.fence_ms)
        failed, outcome = failed_entries(batch, outcome)
        settles = len(failed) < len(batch.entries)
        self._learn(batch, outcome, moment_ms, settles=settles)
        accepted = batch.entries if not failed else without(batch.entries, failed)
        if batch.claims is not None:
            batch.claims.accept(accepted)
            batch.claims = None
        self._delivered(accepted, batch.moments() if not failed else moments_of(accepted), unix_ms)
        self._row.add(Counter.INVOCATIONS_ACCEPTED, not failed)
        if failed:
            self._row.add(Counter.INVOCATIONS_FAILED, 1)
            self._row.add(Counter.INVOCATIONS_THROTTLED, outcome.failure is Failure.THROTTLED)
            self._failed(batch, failed, outcome, moment_ms, unix_ms)

    def _learn(self, batch: Batch, outcome: Outcome, moment_ms: int, *, settles: bool) -> None:
        health, keys = self.health, self.keys
        if health.take_in(batch, outcome, moment_ms, settles=settles):
            keys.paused_until_ms = 0
            keys.retries.hasten(moment_ms, suspects=not health.is_limited)
        keys.slots, keys.suspects_max = health.slots, health.suspects_max
        self._row.add(Counter.INVOCATIONS_LOST, outcome.is_lost)

    def settle(self, entries: Sequence[Entry]) -> None:
        """End the delivery of these keys, on disk too."""
        if not self._rules.is_retired:
            # Rows under the name of a removed route may belong to another lane by now.
            self.shelf.settled(self.keys, entries)
        self.keys.settle(entries)

    def _delivered(self, entries: Sequence[Entry], moments: Mapping[int, int], unix_ms: int) -> None:
        if not entries:
            return
        row = self._row
        row.add(Counter.RECORDS_DELIVERED, len(entries))
        row.add(Counter.LAG_MS_SUM, sum(max(0, unix_ms - moment_ms) * count for moment_ms, count in moments.items()))
        row.set(Counter.LAG_MS_MAX, max(row.get(Counter.LAG_MS_MAX), unix_ms - min(moments)))
        row.lags.record_all(Stage.SETTLED, unix_ms, moments)
        self.settle(entries)

    def _failed(self, sent: Batch, failed: list[Entry], outcome: Outcome, moment_ms: int, unix_ms: int) -> None:
        others_pass = sent.attempts > 0 and self.health.has_delivered_since(sent.failing_since_ms)
        for answer in self._rules.decide(sent, failed, outcome, unix_ms, others_pass=others_pass):
            if isinstance(answer, Again):
                answer.batch.failing_since_ms = sent.failing_since_ms or moment_ms
                self._again(answer, sent, outcome, moment_ms)
            elif isinstance(answer, GivenUp):
                self._give_up(answer, moment_ms, unix_ms)
            elif isinstance(answer, SetAside):
                answer.batch.aside = answer.why
                self._put_aside(answer.batch, moment_ms)
            elif isinstance(answer, Restored):
                self.keys.retries.restore(answer.batch, sent)
            else:
                self._stray(answer.entries)

    def _again(self, answer: Again, sent: Batch, outcome: Outcome, moment_ms: int) -> None:
        batch, keys = answer.batch, self.keys
        wait_ms, pause_ms = self.health.wait_ms(answer, outcome, moment_ms, random.random)
        if pause_ms:
            keys.pause(moment_ms + pause_ms)
        batch.payload, batch.sent = b"", []
        self._row.add(Counter.RECORDS_RETRIED, len(batch.entries))
        if answer.is_durable:
            self.shelf.free(batch, reason_of(outcome))
        if pause_ms and sent.is_early:
            keys.retries.restore(batch, sent)
        elif not self.shelving.park(batch, moment_ms, wait_ms):
            keys.retry(batch, moment_ms + wait_ms)
        log.warning(
            "invocation_failed", route=self.route.name, function=self.route.function, **in_log(outcome),
            failure=outcome.failure.name.lower(), records=len(batch.entries),
            such_as=such_as(batch.entries), attempts=batch.attempts, retry_in_ms=wait_ms,
        )  # fmt: skip

    def unread(self, batch: Batch, reason: str, moment_ms: int, unix_ms: int) -> None:
        """Let a key that can't be read wait on disk: the cause may pass, and delays no other key meanwhile."""
        batch.attempts += 1
        policy = self._rules.policy
        if policy.gives_up(batch.attempts) or policy.is_too_old(batch.entries[0][1].captured_ms, unix_ms):
            batch.verdict = Outcome(reason=reason)
            self._give_up(GivenUp(batch), moment_ms, unix_ms)
            return
        batch.aside = Outcome(reason=reason)
        self._put_aside(batch, moment_ms)

    def _put_aside(self, batch: Batch, moment_ms: int) -> None:
        """Set these aside, but not while their invocation may still write: a newer value is tried at once."""
        if batch.fence_ms > moment_ms:
            self.keys.retry(batch, batch.fence_ms)
        else:
            self.set_aside(batch, moment_ms)

    def set_aside(self, batch: Batch, moment_ms: int) -> None:
        """Let these wait on disk alone, for long; if the disk refuses, in memory."""
        if not self.shelving.set_aside(batch, self._rules.policy, moment_ms, random.random):
            batch.aside = None
            self.keys.retry(batch, moment_ms + self.health.backoff.ms_max)

    def _give_up(self, answer: GivenUp, moment_ms: int, unix_ms: int) -> None:
        """Bury these, but not while their invocation may still write: a newer value must not be there before it."""
        batch = answer.batch
        assert batch.verdict is not None
        if batch.fence_ms > moment_ms:
            self.keys.retry(batch, batch.fence_ms)
        else:
            self._hands.bury(batch, batch.verdict, unix_ms)

    def buried(self, burial: Burial, problem: str, moment_ms: int) -> None:
        """Settle what is kept as dead letters; if they can't be kept, keep the records and try again later."""
        name, records = self.route.name, len(burial.entries)
        if problem:
            log.error("dead_letter_not_kept", route=name, problem=problem, records=records)
            if self._rules.is_retired:
                self._stray(burial.entries)
                return
            self.keys.retry(Batch(burial.entries, burial.attempts), moment_ms + self.health.backoff.ms_max)
            return
        self._row.add(Counter.DEAD_LETTERS, records)
        log.error("dead_letter", route=name, **in_log(burial.told), records=records, such_as=such_as(burial.entries))
        self.settle(burial.entries)
        if self.keys.is_idle():
            self.health.nothing_left()
