"""A route in one invoker: its keys, its hands, what may still write, and what goes to disk, brought together."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence

from engine.clock import monotonic_ms, now_ms
from engine.config import RouteSettings
from engine.delivery.backlog.shelf import Shelf
from engine.delivery.dispatch import Burial
from engine.delivery.lanes.batch import Built
from engine.delivery.lanes.fences import Fences
from engine.delivery.lanes.hands import Hands, LaneKit
from engine.delivery.lanes.health import Health
from engine.delivery.lanes.lane import Batch, Entry, Lane
from engine.delivery.lanes.retry import Backoff, RetryPolicy, failed_entries, without
from engine.delivery.lanes.settle import Frame
from engine.delivery.lanes.shelving import Shelving
from engine.delivery.lanes.verdict import Again, GivenUp, Rules, Stray
from engine.delivery.reading.questions import Fetched
from engine.delivery.reading.values import key_text
from engine.model import Change, Failure, Outcome
from engine.observe.logs import get_logger
from engine.ring.counters import Counter
from engine.routing.routes import wants

log = get_logger(__name__)

_lane_ids = itertools.count()
KEYS_SHOWN_MAX = 20
START_LOOK_MS = 10
"""How soon a lane that may not start yet looks again."""
FLIGHT_MS_SHORT = 1_000
"""An invocation that is not answered for longer must not hold up a ring."""


class RouteLane:
    """One route in one invoker. ``lane_id`` is never used twice in a process, unlike a route's slot."""

    def __init__(self, route: RouteSettings, kit: LaneKit, version: int = 1, elders: Sequence[RouteLane] = ()) -> None:
        self.lane_id = next(_lane_ids)
        self.keys = Lane(batch_size=1, window_ms=0, slots=1)
        self.fences: Fences = Fences([elder.fences for elder in elders])
        self.shelf = Shelf(kit.backlog, route.name)
        # Times on disk are Unix times, but must not jump while we live.
        self._unix_ahead_ms = now_ms() - monotonic_ms()
        self.shelving = Shelving(self.keys, self.shelf, kit, self._unix_ahead_ms)
        self.version = version
        """Of the route table that made this lane."""
        self.retired_by = 0
        """The version of the route table that took its route away; 0 while it is in force."""
        self.strays: list[Entry] = []
        """What a retired lane has not delivered: for the lanes that came after it."""
        backoff = Backoff(kit.delivery.retry_backoff_ms_min, kit.delivery.retry_backoff_ms_max)
        self.health = Health(route.parallelization_factor, backoff)
        self._kit = kit
        self._row = kit.row
        self._take_settings(route)

    def use(self, route: RouteSettings) -> None:
        """Deliver by these settings from now on.

        The lane keeps its keys: what waits or failed goes the new way, and a key that is in flight the old way
        still keeps its next value back. A pause was the old function's.
        """
        self._hands.release()
        self._take_settings(route)

    def _take_settings(self, route: RouteSettings) -> None:
        self.route = route
        self.wants = wants(route)
        self.include_expiry = route.include_expiry
        self.health.begin_anew(route.parallelization_factor)
        keys = self.keys
        keys.batch_size = 1 if route.payload == "original" else route.batch_size
        keys.coalesces = route.coalesce
        keys.window_ms = round(route.maximum_batching_window_in_seconds * 1_000)
        keys.slots = self.health.slots
        keys.paused_until_ms = 0
        age_s = route.maximum_record_age_in_seconds
        policy = RetryPolicy(route.maximum_retry_attempts, age_s * 1_000 if age_s >= 0 else -1)
        self._rules = Rules(policy, route.bisect_batch_on_function_error, is_retired=bool(self.retired_by))
        self._hands = Hands(self.lane_id, route, self._kit)
        self.deletes, self.explained = self._hands.deletes, self._hands.explained

    def release_hands(self) -> None:
        """Let the threads end once their invocations have, and their connections with them."""
        self._hands.release()

    # Reloads

    def retire(self, version: int) -> None:
        """Send nothing more: what is in flight ends here, all else is for lanes that came after this one."""
        self.retired_by = version
        self._rules = Rules(self._rules.policy, is_retired=True)
        self.strays += self.keys.withdraw()

    def is_over(self, moment_ms: int) -> bool:
        """Tell whether this retired lane has nothing more to do, and nothing more to be waited for."""
        return self.keys.is_idle() and not self.strays and not self.fences.may_still_write(moment_ms)

    def _stray(self, entries: Sequence[Entry]) -> None:
        """Leave these, whose invocation has ended, to the lanes that came after this one."""
        self.keys.in_flight.difference_update(change.key for change, _ in entries)
        self.strays += entries

    # The way out

    def add_fenced(self, changes: Iterable[Change], frame: Frame, due_ms: int) -> None:
        """Mark keys dirty that a lane before this process may still be delivering."""
        self.fences.lose(due_ms)
        self.keys.add_fenced(changes, frame, due_ms)

    def take(self, now_ms: int, *, flush: bool = False) -> Batch | None:
        """Return the next batch that may start now; bury those that are given up and fenced no longer."""
        keys = self.keys
        if not self._may_start(now_ms):
            keys.pause(now_ms + START_LOOK_MS)
            return None
        while (batch := keys.take(now_ms, flush=flush)) is not None and batch.verdict is not None:
            self._hands.bury(batch, batch.verdict, now_ms + self._unix_ahead_ms)
        return batch

    def _may_start(self, moment_ms: int) -> bool:
        return bool(self.retired_by) or self.fences.may_start(moment_ms)

    def send(self, batch: Batch, values: Sequence[Fetched], moment_ms: int, unix_ms: int) -> None:
        """Make the payload and start its invocation; settle, defer or refuse what does not go into it.

        ``values`` may be those of the first entries only, where more would not have fitted anyway.
        """
        row = self._row
        unread = batch.entries[len(values) :]
        if unread:
            batch.entries = batch.entries[: len(values)]
        row.add(Counter.KEYS_FETCHED, len(values))
        row.add(Counter.KEYS_RETYPED, sum(1 for value in values if value.retyped))
        built = self._hands.build(batch.entries, values, is_unfenced=self.fences.is_unfenced)
        row.add(Counter.KEYS_GONE, len(built.settled))
        self.settle(built.settled)
        for entry, reason in built.refused:
            self._hands.bury(Batch([entry], batch.attempts), Outcome(reason=reason), unix_ms)
        self.keys.retry(Batch(built.deferred + unread, batch.attempts), moment_ms)
        if built.sent:
            self._start(batch, built, moment_ms)

    def _start(self, batch: Batch, built: Built, moment_ms: int) -> None:
        row, keys = self._row, self.keys
        batch.sent = built.sent
        batch.entries = built.sent if keys.coalesces else built.entries()
        for entry, events in built.left:
            keys.hold_back(entry, events)
        batch.payload = built.payload
        batch.fence_ms = 0 if self.fences.is_unfenced else moment_ms + self._hands.fence_after_ms
        # Before it is sent: whoever takes over from us must know.
        row.set(Counter.FENCE_MS, max(row.get(Counter.FENCE_MS), batch.fence_ms))
        self.fences.flying.append(batch)
        self.shelving.sent()
        keys.invocations += 1
        row.add(Counter.INVOCATIONS, 1)
        row.add(Counter.PAYLOAD_BYTES, len(built.payload))
        row.record_batch_size(len(built.sent))
        self._hands.send(batch)

    # The way back

    def complete(self, batch: Batch, outcome: Outcome, moment_ms: int, unix_ms: int) -> None:
        """Settle what was accepted; see that the rest is delivered again, or kept as dead letters."""
        self.keys.invocations -= 1
        self.fences.flying.remove(batch)
        if not outcome.is_lost:
            batch.fence_ms = 0
        self.fences.lose(batch.fence_ms)
        failed, outcome = failed_entries(batch, outcome)
        self.health.take_in(outcome, moment_ms)
        self.keys.slots = self.health.slots
        self._row.add(Counter.INVOCATIONS_LOST, outcome.is_lost)
        self._delivered(batch.entries if not failed else without(batch.entries, failed), unix_ms)
        if failed:
            self._row.add(Counter.INVOCATIONS_FAILED, 1)
            self._row.add(Counter.INVOCATIONS_THROTTLED, outcome.failure is Failure.THROTTLED)
            self._failed(batch, failed, outcome, moment_ms, unix_ms)

    def settle(self, entries: Sequence[Entry]) -> None:
        """End the delivery of these keys, on disk too."""
        if not self.retired_by:
            # Rows under the name of a route that went may be another lane's by now.
            self.shelf.settled(self.keys, entries)
        self.keys.settle(entries)

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
        for answer in self._rules.decide(sent, failed, outcome, unix_ms):
            if isinstance(answer, Stray):
                self._stray(answer.entries)
            elif isinstance(answer, GivenUp):
                self._give_up(answer, moment_ms, unix_ms)
            else:
                self._again(answer, outcome, moment_ms)

    def _again(self, answer: Again, outcome: Outcome, moment_ms: int) -> None:
        batch, keys = answer.batch, self.keys
        wait_ms, pause_ms = self.health.wait_ms(answer, outcome, moment_ms, random.random)
        if pause_ms:
            keys.pause(moment_ms + pause_ms)
        batch.payload, batch.sent = b"", []
        self._row.add(Counter.RECORDS_RETRIED, len(batch.entries))
        if not self.shelving.park(batch, moment_ms, wait_ms):
            keys.retry(batch, moment_ms + wait_ms)
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
        names = [key_text(change.key)[0] for change, _ in batch.entries[:KEYS_SHOWN_MAX]]
        log.debug("keys_of_failed_invocation", route=self.route.name, keys=names)

    def _give_up(self, answer: GivenUp, moment_ms: int, unix_ms: int) -> None:
        """Bury these, but not while their invocation may still write: a newer value must not be there before it."""
        batch = answer.batch
        assert batch.verdict is not None
        if batch.fence_ms > moment_ms:
            self.keys.retry(batch, batch.fence_ms)
        else:
            self._hands.bury(batch, batch.verdict, unix_ms)

    def buried(self, burial: Burial, problem: str, moment_ms: int) -> None:
        """Settle what is kept as dead letters; where they can't be kept, keep the records and try again later."""
        name, records = self.route.name, len(burial.entries)
        if problem:
            log.error("dead_letter_not_kept", route=name, problem=problem, records=records)
            if self.retired_by:
                self._stray(burial.entries)
                return
            self.keys.retry(Batch(burial.entries, burial.attempts), moment_ms + self.health.backoff.ms_max)
            return
        self._row.add(Counter.DEAD_LETTERS, records)
        log.error("dead_letter", route=name, reason=burial.reason, records=records)
        self.settle(burial.entries)

    # The backlog

    def is_held_up(self, moment_ms: int) -> bool:
        """Tell whether keys of this lane wait for something else than their turn."""
        return self.health.is_troubled or moment_ms < self.keys.paused_until_ms

    def shelve(self, moment_ms: int, *, is_stuck: bool) -> None:
        """Have no ring wait for this lane: make durable what it retries, and move all to disk where it ``is_stuck``."""
        self.shelving.shelve(moment_ms, self._long_flying(moment_ms) if is_stuck else (), is_stuck=is_stuck)

    def ease(self, moment_ms: int) -> None:
        """Have no ring wait for this lane, which delivers, but too slowly: make durable what has long to wait."""
        self.shelving.ease(moment_ms, self._long_flying(moment_ms))

    def _long_flying(self, moment_ms: int) -> list[Batch]:
        # What has just set out will be back before a row of it is written.
        until_ms = moment_ms - FLIGHT_MS_SHORT + self._hands.fence_after_ms
        return [batch for batch in self.fences.flying if batch.fence_ms <= until_ms]

    def take_back(self, moment_ms: int) -> None:
        """Take keys back from disk while there is a slot for them, behind those that wait in memory."""
        if not self.retired_by and self.shelving.is_wanted(moment_ms) and self.fences.may_start(moment_ms):
            self.shelving.take_back(moment_ms)

    def empty_out(self, moment_ms: int) -> None:
        """For a drain: move everything to disk once nothing is in flight; what the disk refuses stays."""
        if not self.fences.flying:
            self.shelving.empty_out(moment_ms)
