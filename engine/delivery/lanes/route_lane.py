"""A route in one invoker: combines its keys, its hands, what may still write, and what goes to disk."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence

from engine.clock import monotonic_ms, now_ms
from engine.config import RouteSettings
from engine.delivery.backlog.shelf import Shelf
from engine.delivery.dispatch import Burial
from engine.delivery.lanes.aftermath import Aftermath
from engine.delivery.lanes.batch import Built
from engine.delivery.lanes.fences import Fences
from engine.delivery.lanes.hands import Hands, LaneKit
from engine.delivery.lanes.health import PROBE_KEYS, Health
from engine.delivery.lanes.lane import Lane
from engine.delivery.lanes.retry import Backoff, RetryPolicy
from engine.delivery.lanes.settle import Frame
from engine.delivery.lanes.shelving import Shelving
from engine.delivery.lanes.verdict import Rules
from engine.delivery.lanes.work import UNTRACED, Batch, Entry, Parents
from engine.delivery.reading.questions import Fetched
from engine.delivery.traces import LaneTraces
from engine.delivery.unchanged import Unchanged
from engine.model import FORCED, Outcome, Run
from engine.observe.logs import get_logger
from engine.ring.counters import Counter
from engine.ring.lags import Stage
from engine.routing.routes import wants

log = get_logger(__name__)

_lane_ids = itertools.count()
START_LOOK_MS = 10
"""How soon a lane that may not start yet looks again."""
FLIGHT_MS_SHORT = 1_000
"""An invocation without an answer for longer than this must not hold up a ring."""


class RouteLane:
    """One route in one invoker. ``lane_id`` is never used twice in a process, unlike a route's slot."""

    def __init__(self, route: RouteSettings, kit: LaneKit, version: int = 1, elders: Sequence[RouteLane] = ()) -> None:
        self.lane_id = next(_lane_ids)
        self.keys = Lane(batch_size=1, window_ms=0, slots=1)
        self.fences: Fences = Fences([elder.fences for elder in elders])
        self.shelf = Shelf(kit.backlog, route.name)
        moment_ms = monotonic_ms()
        # Times on disk are Unix times, but must not jump while we live.
        self._unix_ahead_ms = now_ms() - moment_ms
        self.shelving = Shelving(self.keys, self.shelf, kit, self._unix_ahead_ms)
        self.version = version
        """The version of the route table that made this lane."""
        self.retired_by = 0
        """The version of the route table that removed its route; 0 while it is in force."""
        backoff = Backoff(kit.delivery.retry_backoff_ms_min, kit.delivery.retry_backoff_ms_max)
        self.health = Health(route.parallelization_factor, backoff, moment_ms)
        self._kit = kit
        self._row = kit.row
        home = kit.home
        scope = (kit.database, home.part)
        self.unchanged = Unchanged(kit.delivery, home.index, home.invokers, scope, kit.row)
        self.traces = LaneTraces(kit.tracing)
        self._aftermath = Aftermath(self.keys, self.fences, self.shelf, self.shelving, self.health, kit.row)
        self._take_settings(route)

    def use(self, route: RouteSettings) -> None:
        """Deliver by these settings from now on.

        The lane keeps its keys: what waits or failed is sent the new way, and a key that is in flight the old way still
        holds back its next value. A pause concerned the old function.
        """
        self._hands.release()
        self._take_settings(route)

    def _take_settings(self, route: RouteSettings) -> None:
        self.route = route
        self.wants = wants(route)
        self.traces.use(route)
        self.include_expiry = route.include_expiry
        self.health.begin_anew(route.parallelization_factor, monotonic_ms())
        keys = self.keys
        keys.batch_size = 1 if route.payload == "original" else route.batch_size
        keys.coalesces = route.coalesce
        keys.window_ms = round(route.maximum_batching_window_in_seconds * 1_000)
        keys.slots, keys.suspects_max = self.health.slots, self.health.suspects_max
        keys.paused_until_ms = 0
        age_s = route.maximum_record_age_in_seconds
        policy = RetryPolicy(route.maximum_retry_attempts, age_s * 1_000 if age_s >= 0 else -1)
        self.health.is_limited = policy.is_limited
        aside_attempts = self._kit.delivery.set_aside_attempts
        rules = Rules(policy, route.bisect_batch_on_function_error, bool(self.retired_by), aside_attempts)
        self._hands = Hands(self.lane_id, route, self._kit)
        self._aftermath.use(route, rules, self._hands)
        if not self.retired_by:
            self.unchanged.use(route)
        self.deletes, self.explained = self._hands.deletes, self._hands.explained
        for _, _, batch in keys.retries:
            # What is being read for the old settings may lack what the new ones need.
            batch.reading = None

    def release_hands(self) -> None:
        """Let the threads, and their connections, end once their invocations have."""
        self._hands.release()

    # Reloads

    def retire(self, version: int) -> None:
        """Send nothing more: what is in flight ends here, everything else is for later lanes."""
        self.retired_by = version
        self.unchanged.retire()
        self._aftermath.retire()

    @property
    def strays(self) -> list[Entry]:
        """What a retired lane has not delivered: for the lanes that came after it."""
        return self._aftermath.strays

    def take_strays(self) -> list[Entry]:
        """Return them; they are the caller's now."""
        return self._aftermath.take_strays()

    def is_over(self, moment_ms: int) -> bool:
        """Tell whether this retired lane has nothing more to do, and nothing more to be waited for."""
        return self.keys.is_idle() and not self.strays and not self.fences.may_still_write(moment_ms)

    # The way out

    def take_marks(self, runs: Iterable[Run]) -> None:
        """Deliver those of these keys that were marked, whatever they hold."""
        if self.unchanged.is_on and (forced := [key for run in runs if run.routes & FORCED for key in run.keys]):
            self.force(forced)

    def force(self, keys: Collection[bytes]) -> None:
        """Deliver these, whatever they hold: the destination was found to lack them."""
        self.unchanged.force(keys, self.fences.flying)

    def add_fenced(self, runs: Iterable[Run], frame: Frame, due_ms: int) -> None:
        """Mark keys dirty that a lane before this process may still be delivering."""
        self.fences.lose(due_ms)
        self.keys.add_fenced(runs, frame, due_ms)

    def take(self, now_ms: int, *, flush: bool = False) -> Batch | None:
        """Return the next batch that may start now; process those whose fence has passed."""
        keys = self.keys
        if not self._may_start(now_ms):
            keys.pause(now_ms + START_LOOK_MS)
            return None
        while (batch := keys.take(now_ms, flush=flush)) is not None and (batch.verdict or batch.aside):
            if batch.verdict is not None:
                self._hands.bury(batch, batch.verdict, now_ms + self._unix_ahead_ms)
            else:
                self._aftermath.set_aside(batch, now_ms)
        if batch is None and (asks_at_ms := self._asks_at_ms(now_ms)) is not None and now_ms >= asks_at_ms:
            self.health.asked(now_ms)
            batch = keys.take_probe(now_ms, PROBE_KEYS)
        if batch is not None and self.traces.under_way:
            self.traces.take(batch, keys.held)
        return batch

    def _asks_at_ms(self, now_ms: int) -> int | None:
        return self.health.asks_at_ms(now_ms, is_paused=now_ms < self.keys.paused_until_ms)

    def next_due_ms(self, now_ms: int) -> int | None:
        """Return when `take` may next have something because time passed; None if only events can."""
        due_ms = self.keys.next_due_ms()
        asks_at_ms = self._asks_at_ms(now_ms) if self.keys.has_more() else None
        return min((time for time in (due_ms, asks_at_ms) if time is not None), default=None)

    def _may_start(self, moment_ms: int) -> bool:
        return bool(self.retired_by) or self.fences.may_start(moment_ms)

    def send(self, batch: Batch, values: Sequence[Fetched], moment_ms: int, unix_ms: int) -> None:
        """Make the payload and start its invocation; settle, defer or refuse what is not in it.

        ``values`` may be those of the first entries only, if more would not have fitted anyway.
        """
        row = self._row
        batch.sent_ms = moment_ms
        unread = batch.entries[len(values) :]
        if unread:
            batch.entries = batch.entries[: len(values)]
        if not batch.attempts:
            row.lags.record_all(Stage.FETCHED, unix_ms, batch.moments())
        row.add(Counter.KEYS_FETCHED, len(values))
        row.add(Counter.KEYS_RETYPED, sum([value.retyped for value in values]))
        same, values = self.unchanged.sift(batch, values)
        self._aftermath.settle(same)
        parents = self.traces.begin(batch) if batch.traced else UNTRACED
        built = self._hands.build(batch.entries, values, parents, is_unfenced=self.fences.is_unfenced)
        row.add(Counter.KEYS_GONE, len(built.settled))
        self._aftermath.settle(built.settled)
        if batch.traced:
            self.traces.settle(same, "unchanged")
            self.traces.settle(built.settled, "gone")
        for entry, reason in built.refused:
            self._hands.bury(Batch([entry], batch.attempts), Outcome(reason=reason), unix_ms)
        for entry, reason in built.unread:
            self._aftermath.unread(batch.part([entry]), reason, moment_ms, unix_ms)
        if rest := built.deferred + unread:
            self._put_off(batch, rest, moment_ms)
        if built.sent:
            self._start(batch, built, parents, moment_ms)

    def _put_off(self, batch: Batch, rest: list[Entry], moment_ms: int) -> None:
        """Let these of a batch wait for the next: they did not fit into this one."""
        if batch.is_early:
            self.keys.retries.restore(batch.part(rest), batch)
        else:
            self.keys.retry(batch.part(rest), moment_ms)

    def put_off(self, batch: Batch, moment_ms: int, wait_ms: int) -> None:
        """Let a batch that can't be read now wait: for its node, and not for its target."""
        if not self.shelving.park(batch, moment_ms, wait_ms):
            self.keys.retry(batch, moment_ms + wait_ms)

    def _start(self, batch: Batch, built: Built, parents: Parents, moment_ms: int) -> None:
        row, keys = self._row, self.keys
        batch.sent = built.sent
        batch.entries = built.sent if keys.coalesces else built.entries()
        for entry, events in built.left:
            keys.hold_back(entry, events)
        batch.payload = built.payload
        if batch.traced:
            self.traces.start(batch, parents)
        # Before it is sent: from then on nobody knows what the destination holds.
        self.unchanged.sending(batch)
        batch.fence_ms = 0 if self.fences.is_unfenced else moment_ms + self._hands.fence_after_ms
        # Before it is sent: a successor must know.
        row.set(Counter.FENCE_MS, max(row.get(Counter.FENCE_MS), batch.fence_ms))
        self.fences.flying.append(batch)
        self.shelving.sent()
        self.health.asked(moment_ms)
        keys.started(batch)
        row.add(Counter.INVOCATIONS, 1)
        row.add(Counter.PAYLOAD_BYTES, len(built.payload))
        row.record_batch_size(len(built.sent))
        if not batch.attempts:
            row.lags.record_all(Stage.INVOKED, now_ms(), batch.moments())
        self._hands.send(batch)

    # The way back

    def complete(self, batch: Batch, outcome: Outcome, moment_ms: int, unix_ms: int) -> None:
        """Settle what was accepted; have the rest delivered again, or kept elsewhere."""
        if batch.traced:
            self.traces.answered(batch, outcome)
        self._aftermath.complete(batch, outcome, moment_ms, unix_ms)
        if batch.traced:
            self.traces.accepted(batch)

    def buried(self, burial: Burial, problem: str, moment_ms: int) -> None:
        """Settle what is kept as dead letters; if they can't be kept, keep the records and try again later."""
        self._aftermath.buried(burial, problem, moment_ms)
        if self.traces.under_way and not problem:
            self.traces.settle(burial.entries, "dead_letter")

    # The backlog

    def is_held_up(self, moment_ms: int) -> bool:
        """Tell whether keys of this lane wait for something other than their turn."""
        return self.health.is_troubled or moment_ms < self.keys.paused_until_ms

    def shelve(self, moment_ms: int, *, is_stuck: bool) -> None:
        """Make no ring wait for this lane: make durable what it retries, and move all to disk if it ``is_stuck``."""
        self.shelving.shelve(moment_ms, self._long_flying(moment_ms) if is_stuck else (), is_stuck=is_stuck)

    def ease(self, moment_ms: int) -> None:
        """Make no ring wait for this lane, which delivers, but too slowly: make durable what will wait for long."""
        self.shelving.ease(moment_ms, self._long_flying(moment_ms))

    def _long_flying(self, moment_ms: int) -> list[Batch]:
        # What was just sent will be back before a row of it is written.
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
