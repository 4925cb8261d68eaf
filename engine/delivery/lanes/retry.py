"""What to do with records that were not delivered: again, later, or never.  (pure)

The classes follow AWS event source mappings: an error of the *function* counts against the route's
``maximum_retry_attempts``; a throttle, an outage or a wrong setup is the target's state, not the batch's
fault, and pauses the whole lane instead. ``maximum_record_age_in_seconds`` ends both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.delivery.lanes.work import Batch, Entry
from engine.model import Failure, Outcome

OF_THE_RECORDS = frozenset(
    {Failure.FUNCTION_ERROR, Failure.TIMEOUT, Failure.BAD_ANSWER, Failure.ITEMS, Failure.OVERSIZE}
)
"""Failures that count as an attempt of these records; all others pause the lane."""

NEVER_MS = 1 << 53


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: anywhere between 0 and the doubled bound.

    Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. A floor of an
    eighth of the bound keeps an unlucky draw from hammering a target that is down.
    """

    ms_min: int
    ms_max: int

    def wait_ms(self, attempt: int, random: Callable[[], float]) -> int:
        """Return how long to wait after this many failures in a row (1 for the first)."""
        bound = min(self.ms_max, self.ms_min << min(attempt - 1, 30))
        floor = bound // 8
        return floor + int(random() * (bound - floor))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A route's limits: attempts (−1: no limit) and age in milliseconds (−1: no limit)."""

    attempts_max: int
    age_ms_max: int

    def counts(self, outcome: Outcome) -> bool:
        """Tell whether this failure is an attempt of the records."""
        return outcome.failure in OF_THE_RECORDS

    def gives_up(self, attempt: int) -> bool:
        """Tell whether records that failed this often are not delivered again."""
        return 0 <= self.attempts_max < attempt

    @property
    def is_limited(self) -> bool:
        """Tell whether attempts are counted, each against its records."""
        return self.attempts_max >= 0

    def left_ms(self, captured_ms: int, now_ms: int) -> int:
        """Return how long a record captured at this time may still be retried."""
        return max(0, captured_ms + self.age_ms_max + 1 - now_ms) if self.age_ms_max >= 0 else NEVER_MS

    def is_too_old(self, captured_ms: int, now_ms: int) -> bool:
        """Tell whether a record captured at this time is past its age."""
        return 0 <= self.age_ms_max < now_ms - captured_ms


def failed_entries(batch: Batch, outcome: Outcome) -> tuple[list[Entry], Outcome]:
    """Return which entries failed; an identifier that we never sent fails the whole batch."""
    if outcome.failure is Failure.NONE:
        return [], outcome
    if not outcome.failed_ids:
        return ([], Outcome()) if outcome.failure is Failure.ITEMS else (batch.entries, outcome)
    indexes = {int(name) for name in outcome.failed_ids if name.isascii() and name.isdigit()}
    known = len(indexes) == len(set(outcome.failed_ids)) and max(indexes) < len(batch.sent)
    if not known:
        reason = "batchItemFailures names a record that was not in the batch"
        return batch.entries, Outcome(Failure.BAD_ANSWER, reason=reason)
    # A key may have several records: where its events are not coalesced.
    failed = {batch.sent[index][0]: batch.sent[index] for index in sorted(indexes)}
    return list(failed.values()), outcome


def without(entries: Sequence[Entry], failed: Sequence[Entry]) -> list[Entry]:
    """Return the entries that are not among the failed."""
    keys = {key for key, _ in failed}
    return [entry for entry in entries if entry[0] not in keys]


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """Return a batch cut in two, both with its attempts and its fence."""
    middle = len(batch.entries) // 2
    parts = batch.part(batch.entries[:middle]), batch.part(batch.entries[middle:])
    for part in parts:
        # On disk too: the parts must not be joined again.
        part.together = len(part.entries)
    return parts
