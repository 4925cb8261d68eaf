"""What an outcome means for records that failed: again, in halves, given up, or another lane's.  (pure)"""

from __future__ import annotations

from dataclasses import dataclass

from engine.delivery.lanes.lane import Batch, Entry
from engine.delivery.lanes.retry import RetryPolicy, halves, without
from engine.model import Failure, Outcome


@dataclass(frozen=True, slots=True)
class Again:
    """This batch is delivered again; ``counts`` where the failure was an attempt of its records."""

    batch: Batch
    counts: bool


@dataclass(frozen=True, slots=True)
class GivenUp:
    """This batch is kept as dead letters, once its invocation can write no more; its verdict says why."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Stray:
    """These are left to the lanes that came after this one."""

    entries: list[Entry]


Answer = Again | GivenUp | Stray


@dataclass(frozen=True, slots=True)
class Rules:
    """What a route says of records that failed; ``bisects`` cuts a batch in two whose function fails."""

    policy: RetryPolicy
    bisects: bool = False
    is_retired: bool = False

    def decide(self, sent: Batch, failed: list[Entry], outcome: Outcome, unix_ms: int) -> list[Answer]:
        """Return what becomes of the entries of a batch that failed, each in one answer."""
        if self.is_retired:
            return [Stray(failed)]
        counts = self.policy.counts(outcome)
        batch = Batch(failed, sent.attempts, sent.fence_ms, sent.payload, sent.sent)
        if self._is_cut(failed, outcome, counts):
            # As in event source mappings, to be cut in two is no attempt of the records.
            return [Again(half, counts) for half in halves(batch)]
        batch.attempts += counts
        if outcome.failure is Failure.OVERSIZE or self.policy.gives_up(batch.attempts):
            return [_given_up(batch, outcome)]
        answers: list[Answer] = []
        old = [entry for entry in failed if self.policy.is_too_old(entry[0].captured_ms, unix_ms)]
        if old:
            late = Batch(old, batch.attempts, batch.fence_ms, sent.payload, sent.sent)
            answers.append(_given_up(late, outcome, "past maximum_record_age_in_seconds; "))
            batch.entries = without(failed, old)
        if batch.entries:
            answers.append(Again(batch, counts))
        return answers

    def _is_cut(self, failed: list[Entry], outcome: Outcome, counts: bool) -> bool:
        if len(failed) < 2:
            return False
        bisects = self.bisects and counts and outcome.failure is not Failure.ITEMS
        return bisects or outcome.failure is Failure.OVERSIZE


def _given_up(batch: Batch, outcome: Outcome, note: str = "") -> GivenUp:
    reason = outcome.reason if outcome.failure is Failure.NONE else reason_of(outcome)
    batch.verdict = Outcome(outcome.failure, reason=f"{note}{reason}")
    return GivenUp(batch)


def reason_of(outcome: Outcome) -> str:
    """Return an outcome in words."""
    return f"{outcome.failure.name.lower()}: {outcome.reason}"
