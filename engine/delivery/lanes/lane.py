"""A lane: one route's dirty keys in one invoker, from *waiting* through *in flight* to *settled*.  (pure)

A key is in one of three places, and its newest change is never lost between them:

- ``waiting``: dirty, free to be taken; in order of arrival, each key once;
- in flight: part of a batch that is being delivered or waits for its next attempt;
- ``held``: changed again while in flight; goes back to waiting when that delivery ends.

So a key is never in flight twice, which keeps its values in order, and waiting work is bounded by distinct
keys.

Keys come in runs and share a `Cause`: a run of keys that are all new to a lane goes into ``waiting`` at once.

Keys that wait and batches that are retried take turns at the slots, and suspects (those that failed by themselves)
leave some of them free as long as they go on failing: neither starves the other, however long invocations take.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from engine.delivery.lanes.settle import DURABLE, Frame
from engine.delivery.lanes.work import Batch, Cause, Entry, Retries, let_go
from engine.model import Events, Run
from engine.routing.events import REPAIR


class Lane:
    """The state of one route; time is an argument, in milliseconds of a clock that never jumps."""

    def __init__(self, batch_size: int, window_ms: int, slots: int) -> None:
        self.batch_size = batch_size
        self.window_ms = window_ms
        self.slots = slots
        self.coalesces = True
        """Whether the events of a key become one record."""
        self.waiting: dict[bytes, Cause] = {}
        self.held: dict[bytes, Cause] = {}
        self.in_flight: set[bytes] = set()
        self.invocations = 0
        self.paused_until_ms = 0
        self.retries = Retries()
        self.suspects = 0
        """Invocations under way of keys that failed by themselves before."""
        self.suspects_max = slots
        self._since_ms = 0
        self._holes = 0
        """Places in ``waiting`` of keys that were taken."""
        self._is_waitings_turn = False

    def add(self, runs: Iterable[Run], frame: Frame, now_ms: int) -> int:
        """Mark keys dirty; return how many merged into an existing change."""
        if not self.waiting:
            self._since_ms = now_ms
        merged = 0
        for run in runs:
            keys, waiting = run.keys, self.waiting
            cause = Cause.of(run, frame)
            if len(keys) == 1 or not (self.in_flight.isdisjoint(keys) and waiting.keys().isdisjoint(keys)):
                merged += self._add_each(keys, cause)
                continue
            before = len(waiting)
            waiting.update(dict.fromkeys(keys, cause))
            opened = len(waiting) - before
            frame.open += opened
            merged += len(keys) - opened
        return merged

    def _add_each(self, keys: Sequence[bytes], cause: Cause) -> int:
        """Mark keys dirty, some of which are already here; return how many those are."""
        waiting, in_flight, frame = self.waiting, self.in_flight, cause.frame
        merged = 0
        for key in keys:
            place = waiting if key not in in_flight else self.held
            known = place.get(key)
            if known is None:
                place[key] = cause
                frame.open += 1
                continue
            merged += 1
            if cause.event == REPAIR or (known.event == cause.event and self.coalesces):
                continue
            newer = known.followed(cause.event, known.events if self.coalesces else known.each() + cause.each())
            if known.frame is DURABLE and known.event != cause.event:
                # The row on disk names another event: until this is settled, the ring remembers.
                newer = newer.holding(frame)
                frame.open += 1
            place[key] = newer
        return merged

    def add_fenced(self, runs: Iterable[Run], frame: Frame, due_ms: int) -> None:
        """Mark keys dirty that another process may still be delivering: they count as in flight until then."""
        fresh: dict[bytes, Cause] = {}
        for run in runs:
            cause = Cause.of(run, frame)
            for key in run.keys:
                if key not in self.in_flight:
                    fresh[key] = cause
                    self.in_flight.add(key)
                else:
                    self._add_each([key], cause)
        frame.open += len(fresh)
        if fresh:
            self.retry(Batch(list(fresh.items()), fence_ms=due_ms), due_ms)

    @property
    def retrying_keys(self) -> int:
        """Return how many keys wait for their next attempt."""
        return self.retries.keys

    def withdraw(self) -> list[Entry]:
        """Release all keys except those that are given up or being sent; return them."""
        batches = self.retries.clear()
        for batch in batches:
            if batch.verdict is not None:
                self.retry(batch, batch.due_ms)
        left = [entry for batch in batches if batch.verdict is None for entry in batch.entries]
        self.in_flight.difference_update([key for key, _ in left])
        left += [*self.waiting.items(), *self.held.items()]
        self.waiting, self.held = {}, {}
        return left

    def clear(self) -> None:
        """Forget what is on disk: all that waits, including for its next attempt, and what is held behind it."""
        for batch in self.retries.clear():
            self.settle(batch.entries)
        self.waiting.clear()

    def is_idle(self) -> bool:
        """Tell whether nothing is left to deliver here."""
        return not (self.waiting or self.in_flight or self.held)

    def take(self, now_ms: int, *, flush: bool = False) -> Batch | None:
        """Return the next batch that may start now, its keys marked in flight; None if there is none.

        ``flush`` ignores the batching window (a drain does).
        """
        if self.invocations >= self.slots or now_ms < self.paused_until_ms:
            return None
        is_due = bool(self.waiting) and (flush or self._is_due(now_ms))
        if self.retries and not (is_due and self._is_waitings_turn):
            batch = self.retries.pop(now_ms, suspects=self.suspects < self.suspects_max)
            if batch is not None:
                self._is_waitings_turn = True
                if batch.verdict is None and not (batch.reading and batch.reading.found()):
                    self.fold_held(batch)
                return batch
        if not is_due:
            return None
        self._is_waitings_turn = False
        return Batch(self._take_waiting(self.batch_size))

    def take_probe(self, now_ms: int, keys_max: int) -> Batch | None:
        """Return a few keys to probe the target with, whatever they wait for but a fence; None if there are none."""
        if self.invocations >= self.slots:
            return None
        keys_max = min(keys_max, self.batch_size)
        if not (self.waiting and self._is_waitings_turn):
            batch = self.retries.cut(now_ms, keys_max)
            if batch is not None:
                self._is_waitings_turn = True
                self.fold_held(batch)
                return batch
        self._is_waitings_turn = False
        return Batch(self._take_waiting(keys_max)) if self.waiting else None

    def has_more(self) -> bool:
        """Tell whether there are keys that are not being delivered, and a slot for them."""
        return self.invocations < self.slots and bool(self.waiting or self.retries)

    def waits_for_slot(self) -> bool:
        """Tell whether there are keys that are not being delivered because no slot is free."""
        return self.invocations >= self.slots and bool(self.waiting or self.retries)

    def next_due_ms(self) -> int | None:
        """Return when `take` may next have something because time passed; None if only events can."""
        if self.invocations >= self.slots:
            return None
        due_ms = self.retries.next_due_ms(suspects=self.suspects < self.suspects_max)
        if self.waiting:
            full = len(self.waiting) >= self.batch_size
            waiting_ms = self._since_ms if full else self._since_ms + self.window_ms
            due_ms = waiting_ms if due_ms is None else min(due_ms, waiting_ms)
        return None if due_ms is None else max(due_ms, self.paused_until_ms)

    def started(self, batch: Batch) -> None:
        """Note that this batch was sent."""
        self.invocations += 1
        self.suspects += batch.is_suspect

    def ended(self, batch: Batch) -> None:
        """Note that its invocation has ended."""
        self.invocations -= 1
        self.suspects -= batch.is_suspect

    def settle(self, entries: Sequence[Entry]) -> None:
        """End the delivery of these keys; what changed meanwhile waits for the next."""
        keys = [key for key, _ in entries]
        self.in_flight.difference_update(keys)
        let_go(entries)
        if self.held:
            for key in keys:
                again = self.held.pop(key, None)
                if again is not None:
                    self.waiting[key] = again

    def retry(self, batch: Batch, due_ms: int) -> None:
        """Deliver this batch again at this time; its keys stay in flight, so that they keep their order."""
        if batch.entries:
            self.retries.push(batch, due_ms)

    def hold_back(self, entry: Entry, events: Events) -> None:
        """Keep these events of a key in flight for its next delivery: they did not fit into this one."""
        key, cause = entry
        known = self.held.get(key)
        if known is not None:
            self.held[key] = known.followed(known.event, events + known.each())
            return
        self.held[key] = Cause(events[-1][0], events[0][1], cause.frame, events)
        cause.frame.open += 1

    def pause(self, until_ms: int) -> None:
        """Start nothing before this time: the target is down or asks for less."""
        self.paused_until_ms = max(self.paused_until_ms, until_ms)

    def _is_due(self, now_ms: int) -> bool:
        return len(self.waiting) >= self.batch_size or now_ms - self._since_ms >= self.window_ms

    def _take_waiting(self, keys_max: int) -> list[Entry]:
        if len(self.waiting) <= keys_max:
            taken, self.waiting = self.waiting, {}
            self.in_flight.update(taken)
            self._holes = 0
            return list(taken.items())
        keys = list(islice(self.waiting, keys_max))
        self.in_flight.update(keys)
        entries = list(zip(keys, map(self.waiting.pop, keys), strict=True))
        # A dictionary keeps the places of what was removed, and walks over them before its first entry.
        self._holes += len(keys)
        if self._holes > len(self.waiting):
            self.waiting, self._holes = dict(self.waiting), 0
        return entries

    def fold_held(self, batch: Batch) -> None:
        """Let entries that are read before they are sent cover the changes that arrived meanwhile."""
        if not self.held:
            return
        entries = batch.entries
        for index, (key, cause) in enumerate(entries):
            held = self.held.pop(key, None)
            if held is None:
                continue
            # What was read before this change is not its value.
            batch.reading = None
            if cause.frame is DURABLE:
                cause = cause.holding(held.frame)
            else:
                held.frame.open -= 1
            if held.event != REPAIR:
                cause = cause.followed(held.event, cause.events if self.coalesces else cause.each() + held.each())
            entries[index] = key, cause
