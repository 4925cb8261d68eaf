"""A lane: one route's dirty keys in one invoker, from *waiting* over *in flight* to *settled*.  (pure)

A key is in one of three places, and its newest change is never lost between them:

- ``waiting``: dirty, free to be taken; in order of arrival, each key once;
- in flight: part of a batch that is being delivered or waits for its next attempt;
- ``held``: changed again while in flight; goes back to waiting when that delivery ends.

So a key is never in flight twice, which keeps its values in order, and waiting work is bounded by distinct
keys.

Keys that wait and batches that are retried take turns at the slots, and suspects (those that failed by themselves)
leave some of them free as long as they go on failing: neither starves the other, however long invocations take.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.delivery.lanes.settle import DURABLE, Frame
from engine.delivery.lanes.work import Batch, Entry, Events, Retries
from engine.model import Change
from engine.routing.events import REPAIR, SAME_NAME


def share_alike(changes: Iterable[Change]) -> Iterable[Change]:
    """Give changes that have to wait one name and one time between them where they are alike: 96 bytes a key."""
    moment_ms = 0
    for change in changes:
        change.event = SAME_NAME.get(change.event, change.event)
        if change.captured_ms == moment_ms:
            change.captured_ms = moment_ms
        else:
            moment_ms = change.captured_ms
        yield change


class Lane:
    """The state of one route; time is an argument, in milliseconds of a clock that never jumps."""

    def __init__(self, batch_size: int, window_ms: int, slots: int) -> None:
        self.batch_size = batch_size
        self.window_ms = window_ms
        self.slots = slots
        self.coalesces = True
        """Whether the events of a key become one record."""
        self.waiting: dict[bytes, Entry] = {}
        self.held: dict[bytes, Entry] = {}
        self.in_flight: set[bytes] = set()
        self.invocations = 0
        self.paused_until_ms = 0
        self.retries = Retries()
        self.suspects = 0
        """Invocations under way of keys that failed by themselves before."""
        self.suspects_max = slots
        self._since_ms = 0
        self._is_waitings_turn = False

    def add(self, changes: Iterable[Change], frame: Frame, now_ms: int) -> int:
        """Mark keys dirty; return how many merged into a change that was already there."""
        waiting, in_flight = self.waiting, self.in_flight
        if not waiting:
            self._since_ms = now_ms
        elif len(waiting) >= self.batch_size:
            changes = share_alike(changes)
        merged = opened = 0
        for change in changes:
            key = change.key
            place = waiting if key not in in_flight else self.held
            known = place.get(key)
            if known is None:
                place[key] = (change, frame)
                opened += 1
            else:
                if change.event != REPAIR:
                    if not self.coalesces:
                        known[0].events = known[0].each() + change.each()
                    if known[1] is DURABLE and known[0].event != change.event:
                        # What is on disk names another event: until this is settled, the ring remembers.
                        place[key] = (known[0], frame)
                        opened += 1
                    known[0].event = change.event
                merged += 1
        frame.open += opened
        return merged

    def add_fenced(self, changes: Iterable[Change], frame: Frame, due_ms: int) -> None:
        """Mark keys dirty that somebody may still be delivering: they count as in flight until then."""
        fresh: dict[bytes, Entry] = {}
        for change in changes:
            if change.key not in self.in_flight:
                fresh[change.key] = (change, frame)
                self.in_flight.add(change.key)
            else:
                self.add([change], frame, due_ms)
        frame.open += len(fresh)
        if fresh:
            self.retry(Batch(list(fresh.values()), fence_ms=due_ms), due_ms)

    @property
    def retrying_keys(self) -> int:
        """Return how many keys wait for their next attempt."""
        return self.retries.keys

    def withdraw(self) -> list[Entry]:
        """Let go of all keys but those that are given up or being sent; return them."""
        batches = self.retries.clear()
        for batch in batches:
            if batch.verdict is not None:
                self.retry(batch, batch.due_ms)
        left = [entry for batch in batches if batch.verdict is None for entry in batch.entries]
        self.in_flight.difference_update(change.key for change, _ in left)
        left += [*self.waiting.values(), *self.held.values()]
        self.waiting, self.held = {}, {}
        return left

    def clear(self) -> None:
        """Forget what is on disk: all that waits, also for its next attempt, and what is held behind it."""
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
        """Return a few keys to ask with how the target is, whatever they wait for but a fence; None if none are."""
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
        """Tell whether there are keys that nobody delivers now, and a slot for them."""
        return self.invocations < self.slots and bool(self.waiting or self.retries)

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
        """Take in that this batch is on its way."""
        self.invocations += 1
        self.suspects += batch.is_suspect

    def ended(self, batch: Batch) -> None:
        """Take in that its invocation has ended."""
        self.invocations -= 1
        self.suspects -= batch.is_suspect

    def settle(self, entries: Sequence[Entry]) -> None:
        """End the delivery of these keys; what changed meanwhile waits for the next."""
        keys = [change.key for change, _ in entries]
        self.in_flight.difference_update(keys)
        for _, frame in entries:
            frame.open -= 1
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
        change, frame = entry
        known = self.held.get(change.key)
        if known is not None:
            known[0].events = events + known[0].each()
            return
        name, moment_ms = events[-1][0], events[0][1]
        self.held[change.key] = (Change(change.key, name, change.routes, moment_ms, events), frame)
        frame.open += 1

    def pause(self, until_ms: int) -> None:
        """Start nothing before this time: the target is down or asks for less."""
        self.paused_until_ms = max(self.paused_until_ms, until_ms)

    def _is_due(self, now_ms: int) -> bool:
        return len(self.waiting) >= self.batch_size or now_ms - self._since_ms >= self.window_ms

    def _take_waiting(self, keys_max: int) -> list[Entry]:
        if len(self.waiting) <= keys_max:
            taken, self.waiting = self.waiting, {}
            self.in_flight.update(taken)
            return list(taken.values())
        keys = [key for key, _ in zip(self.waiting, range(keys_max), strict=False)]
        self.in_flight.update(keys)
        return [self.waiting.pop(key) for key in keys]

    def fold_held(self, batch: Batch) -> None:
        """Let entries that are read before they are sent stand for the changes that came meanwhile."""
        if not self.held:
            return
        entries = batch.entries
        for index, (change, frame) in enumerate(entries):
            held = self.held.pop(change.key, None)
            if held is None:
                continue
            # What was read before this change is none of its values.
            batch.reading = None
            if held[0].event != REPAIR:
                if not self.coalesces:
                    change.events = change.each() + held[0].each()
                change.event = held[0].event
            if frame is DURABLE:
                entries[index] = (change, held[1])
            else:
                held[1].open -= 1
