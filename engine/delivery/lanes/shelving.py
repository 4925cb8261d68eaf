"""When a lane's keys move to disk, and when they come back: the lane's part in it is `Shelf`'s caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.delivery.backlog.shelf import EASED_ROWS, ROWS_AT_ONCE, Shelf
from engine.delivery.lanes.hands import LaneKit
from engine.delivery.lanes.lane import Lane
from engine.delivery.lanes.retry import Backoff, RetryPolicy
from engine.delivery.lanes.work import Batch, in_log, such_as
from engine.observe.logs import get_logger
from engine.ring.counters import Counter

log = get_logger(__name__)

EVERY_KEY = 1 << 62
WAITING_BATCHES_MAX = 4
"""Batches that wait in memory before more is taken back from disk."""
FAIR_BATCHES = 10
"""One batch in this many has keys from disk, even while more wait in memory."""
SHELF_RETRY_MS = 1_000
"""A disk that refused is retried after this long."""


class Shelving:
    """A lane's keys and its shelf; ``unix_ahead_ms`` turns the lane's times into those on disk."""

    def __init__(self, keys: Lane, shelf: Shelf, kit: LaneKit, unix_ahead_ms: int) -> None:
        self.is_sorted = False
        """Whether all that is on disk under the route's name is known to be wanted by it."""
        self._keys = keys
        self._shelf = shelf
        self._row = kit.row
        self._retrying_keys_max = kit.delivery.retrying_keys_max
        delivery = kit.delivery
        self._aside_attempts = delivery.set_aside_attempts
        self._aside_backoff = Backoff(delivery.retry_backoff_ms_max, delivery.set_aside_backoff_ms_max)
        self._waiting_keys_max = kit.delivery.waiting_keys_max
        self._unix_ahead_ms = unix_ahead_ms
        self._batches = 0
        """Sent since keys were taken back from disk."""
        self._due_ms = 0

    def sent(self) -> None:
        """Note that a batch was sent."""
        self._batches += 1

    def park(self, batch: Batch, moment_ms: int, wait_ms: int) -> bool:
        """Let a failed batch wait on disk if memory holds enough of them; what is fenced must stay."""
        keys = self._keys
        if batch.fence_ms > moment_ms or keys.retrying_keys < self._retrying_keys_max:
            return False
        keys.fold_held(batch)
        due_ms = moment_ms + wait_ms + self._unix_ahead_ms
        if self._shelf.put_batch(batch, batch.entries, due_ms=due_ms):
            return False
        keys.settle(batch.entries)
        return True

    def set_aside(self, batch: Batch, policy: RetryPolicy, moment_ms: int, random: Callable[[], float]) -> bool:
        """Let keys that keep failing by themselves wait on disk alone, for long; return False if that is impossible.

        A newer value of one of them is tried at once.
        """
        assert batch.aside is not None
        unix_ms = moment_ms + self._unix_ahead_ms
        wait_ms = self._aside_backoff.wait_ms(max(1, batch.attempts - self._aside_attempts + 1), random)
        wait_ms = min(wait_ms, *(policy.left_ms(cause.captured_ms, unix_ms) for _, cause in batch.entries))
        problem = self._shelf.put_batch(batch, batch.entries, due_ms=unix_ms + wait_ms, reason=batch.aside.reason)
        if problem:
            self._row.add(Counter.BACKLOG_REFUSED, 1)
            log.error("backlog_refused", route=self._shelf.route, problem=problem)
            return False
        # What changed meanwhile waits again, and is tried at once.
        self._keys.settle(batch.entries)
        log.error(
            "keys_set_aside", route=self._shelf.route, **in_log(batch.aside), keys=len(batch.entries),
            such_as=such_as(batch.entries), attempts=batch.attempts, retry_in_ms=wait_ms,
            hint="a newer value is tried at once",
        )  # fmt: skip
        return True

    def shelve(self, moment_ms: int, flying: Sequence[Batch], *, is_stuck: bool) -> None:
        """Make no ring wait for the lane: make durable what it retries, and move all to disk if it ``is_stuck``.

        ``flying`` is what has been under way for long.
        """
        if moment_ms < self._due_ms:
            return
        keys, shelf = self._keys, self._shelf
        problem = shelf.free_retries(keys)
        if is_stuck:
            problem = problem or shelf.free_flying(keys, flying) or shelf.move_waiting(keys, ROWS_AT_ONCE)
        self._note(problem, moment_ms)

    def ease(self, moment_ms: int, flying: Sequence[Batch]) -> None:
        """Make no ring wait for the lane, which delivers, but too slowly: make durable what will wait for long."""
        if moment_ms < self._due_ms:
            return
        problem = self._shelf.free_flying(self._keys, flying) or self._shelf.free_waiting(
            self._keys,
            EASED_ROWS,
            after=WAITING_BATCHES_MAX * self._keys.batch_size,
            waiting_keys_max=self._waiting_keys_max,
        )
        self._note(problem, moment_ms)

    def _note(self, problem: str, moment_ms: int) -> None:
        if problem:
            self._due_ms = moment_ms + SHELF_RETRY_MS
            self._row.add(Counter.BACKLOG_REFUSED, 1)
            log.error("backlog_refused", route=self._shelf.route, problem=problem)

    def is_wanted(self, moment_ms: int) -> bool:
        """Tell whether there is a slot for keys from disk, and it is their turn."""
        keys = self._keys
        if keys.invocations >= keys.slots or moment_ms < keys.paused_until_ms:
            return False
        is_idle = len(keys.waiting) < WAITING_BATCHES_MAX * keys.batch_size
        # What is on disk is older than what waits: under endless load it must have its turn too.
        is_due = self._batches >= FAIR_BATCHES and len(keys.waiting) < self._waiting_keys_max
        return (is_idle or is_due) and len(self._shelf) > 0 and self.is_sorted

    def take_back(self, moment_ms: int) -> None:
        """Take keys back from disk, behind those that wait in memory."""
        self._batches = 0
        keys = self._keys
        unix_ms = moment_ms + self._unix_ahead_ms
        # If memory holds a batch too many of what failed, take only what did not: it must not wait for the former.
        is_fresh = keys.retrying_keys >= self._retrying_keys_max + keys.batch_size
        self._shelf.take_back(keys, keys.batch_size, moment_ms, unix_ms, is_fresh=is_fresh)

    def empty_out(self, moment_ms: int) -> None:
        """For a drain: move everything to disk, once nothing is in flight; what the disk refuses stays."""
        if moment_ms < self._due_ms:
            return
        self._due_ms = moment_ms + SHELF_RETRY_MS
        keys, shelf = self._keys, self._shelf
        if shelf.free_retries(keys) or shelf.move_waiting(keys, EVERY_KEY) or shelf.free_flying(keys, ()):
            return
        keys.clear()
