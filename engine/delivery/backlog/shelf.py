"""A lane's keys on disk: moved there when they would hold up others, taken back when their function can take them.

**Moving.** A row in the backlog is as good as a settled delivery for the ring: the entry releases its frame. Keys
that are in flight, are held, or wait for their next attempt, get a row and stay where they are; keys that only wait
leave memory. So a key is never taken from two places, and one key keeps one order.

**Removing.** A row is removed when a delivery of its key is settled and no newer change is held: then the value was
read after the last change that the row stands for.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from itertools import islice

from engine.delivery.backlog.backlog import Backlog, BacklogRow
from engine.delivery.lanes.lane import Lane
from engine.delivery.lanes.settle import DURABLE
from engine.delivery.lanes.work import LONG_AGO_MS, Batch, Cause, Entry, let_go, on_disk

ROWS_AT_ONCE = 5_000
"""Rows in one transaction: some 20 ms, 75 ms in a large file, in which no other lane is served."""
EASED_ROWS = 50_000
"""The same if it must not happen often: 250 ms. A third of the time per row, as a page is written once for many."""


class Shelf:
    """The part of a backlog that belongs to one route."""

    def __init__(self, backlog: Backlog, route: str) -> None:
        self.route = route
        self._backlog = backlog

    def __len__(self) -> int:
        return self._backlog.count(self.route)

    def settled(self, lane: Lane, entries: Iterable[Entry]) -> None:
        """Forget the rows of keys whose delivery is settled, except those that changed meanwhile."""
        if len(self):
            free = [(key, cause.frame is DURABLE) for key, cause in entries if key not in lane.held]
            durable = [key for key, is_durable in free if is_durable]
            self._backlog.remove(self.route, [key for key, is_durable in free if not is_durable], durable)

    def put(
        self, entries: Sequence[Entry], *, due_ms: int = 0, attempts: int = 0, reason: str = "", together: int = 0
    ) -> str:
        """Keep these on disk, as `BacklogRow` says; return "" when they are, else why not."""
        rows = [
            BacklogRow(key, cause.event, cause.captured_ms, due_ms, attempts, reason, together)
            for key, cause in entries
        ]
        return self._backlog.put(self.route, rows)

    def put_batch(self, batch: Batch, entries: Sequence[Entry], *, due_ms: int = 0, reason: str = "") -> str:
        """Keep these of a batch on disk, with its past; return "" when they are, else why not."""
        return self.put(entries, due_ms=due_ms, attempts=batch.attempts, reason=reason, together=batch.together)

    def free(self, batch: Batch, reason: str = "") -> str:
        """Give every entry of a batch a row in place of its frame; return "" or why that is impossible."""
        bound = [entry for entry in batch.entries if entry[1].frame is not DURABLE]
        if not bound and not reason:
            return ""
        if problem := self.put_batch(batch, batch.entries if reason else bound, reason=reason):
            return problem
        let_go(bound)
        batch.entries = on_disk(batch.entries)
        freed = dict(batch.entries)
        # More of a batch that is given up may have been sent than is left in it.
        batch.sent = [(key, freed.get(key, cause)) for key, cause in batch.sent]
        return ""

    def adopt(self, rows: Sequence[BacklogRow], deletes: Container[str]) -> str:
        """Keep rows of another route; a key that is here keeps its event, unless the row's is one of ``deletes``."""
        gone = [row for row in rows if row.event in deletes]
        rest = [row for row in rows if row.event not in deletes]
        problem = self._backlog.put(self.route, rest, replaces=False) if rest else ""
        return problem or (self._backlog.put(self.route, gone) if gone else "")

    def free_retries(self, lane: Lane) -> str:
        """Make durable what waits for its next attempt; return "" or why that is impossible."""
        for _, _, batch in lane.retries:
            if batch.verdict is None:
                lane.fold_held(batch)
            if problem := self.free(batch):
                return problem
        return ""

    def free_flying(self, lane: Lane, flying: Iterable[Batch]) -> str:
        """Make durable what is in flight, and what is held behind it; return "" or why that is impossible."""
        for batch in flying:
            if problem := self.free(batch):
                return problem
        bound = [entry for entry in lane.held.items() if entry[1].frame is not DURABLE]
        if not bound:
            return ""
        if problem := self.put(bound):
            return problem
        let_go(bound)
        lane.held.update(on_disk(bound))
        return ""

    def move_waiting(self, lane: Lane, keys_max: int) -> str:
        """Move the oldest keys that only wait out of memory; return "" or why that is impossible."""
        taken = list(islice(lane.waiting.items(), keys_max))
        bound = [entry for entry in taken if entry[1].frame is not DURABLE]
        if bound and (problem := self.put(bound)):
            return problem
        let_go(bound)
        for key, _ in taken:
            del lane.waiting[key]
        return ""

    def free_waiting(self, lane: Lane, keys_max: int, *, after: int, waiting_keys_max: int) -> str:
        """Make durable keys that wait, behind the first ``after``; return "" or why that is impossible.

        They stay in memory, where they absorb changes, as long as no more than ``waiting_keys_max`` wait there.
        """
        behind = islice(lane.waiting.items(), after, None)
        bound = list(islice((entry for entry in behind if entry[1].frame is not DURABLE), keys_max))
        if not bound:
            return ""
        if problem := self.put(bound):
            return problem
        stays = len(lane.waiting) <= waiting_keys_max
        let_go(bound)
        if stays:
            lane.waiting.update(on_disk(bound))
        else:
            for key, _ in bound:
                del lane.waiting[key]
        return ""

    def take_back(self, lane: Lane, count: int, moment_ms: int, unix_ms: int, *, is_fresh: bool = False) -> None:
        """Let the lane deliver rows that are due; each stays on disk until that is settled.

        ``is_fresh``: only those that have not failed before.
        """
        rows = self._backlog.take(self.route, count, unix_ms, _Busy(lane), is_fresh=is_fresh)
        again: dict[tuple[int, bool, int], list[Entry]] = {}
        for row in rows:
            cause = Cause(row.event, row.captured_ms, DURABLE)
            if row.attempts or row.together:
                again.setdefault((row.attempts, bool(row.reason), row.together), []).append((row.key, cause))
                lane.in_flight.add(row.key)
            else:
                lane.waiting[row.key] = cause
        for (attempts, is_aside, together), entries in again.items():
            since_ms = LONG_AGO_MS if is_aside else moment_ms
            size = together or len(entries)
            for start in range(0, len(entries), size):
                batch = Batch(entries[start : start + size], attempts, failing_since_ms=since_ms, together=together)
                lane.retry(batch, moment_ms)


class _Busy:
    """The keys that a lane has in memory."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def __contains__(self, key: object) -> bool:
        return key in self._lane.in_flight or key in self._lane.waiting
