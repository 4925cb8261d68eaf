"""What an outcome means for records that failed: again, in halves, aside, given up, or another lane's.  (pure)"""

from __future__ import annotations

from dataclasses import dataclass

from engine.delivery.lanes.retry import RetryPolicy, halves, without
from engine.delivery.lanes.work import Batch, Entry
from engine.model import Failure, Outcome


@dataclass(frozen=True, slots=True)
class Again:
    """This batch is delivered again; ``counts`` where the failure was an attempt of its records.

    ``is_durable``: its keys keep failing by themselves, and may hold up no ring meanwhile.
    """

    batch: Batch
    counts: bool
    is_durable: bool = False


@dataclass(frozen=True, slots=True)
class Restored:
    """This batch was sent early, as a probe, without success: it waits on as if it had not been sent."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class SetAside:
    """These keys keep failing by themselves while others are delivered: they wait on disk, for long."""

    batch: Batch
    why: Outcome


@dataclass(frozen=True, slots=True)
class GivenUp:
    """This batch is kept as dead letters, once its invocation can no longer write; its verdict says why."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Stray:
    """These are left to the lanes that came after this one."""

    entries: list[Entry]


Answer = Again | Restored | SetAside | GivenUp | Stray


@dataclass(frozen=True, slots=True)
class Rules:
    """What a route decides about records that failed.

    ``bisects`` cuts a batch in two whose function fails. Keys that failed by themselves ``aside_attempts`` times keep
    failing.
    """

    policy: RetryPolicy
    bisects: bool = False
    is_retired: bool = False
    aside_attempts: int = 1 << 62

    def decide(
        self, sent: Batch, failed: list[Entry], outcome: Outcome, unix_ms: int, *, others_pass: bool = False
    ) -> list[Answer]:
        """Return what becomes of the entries of a batch that failed, each in exactly one answer.

        ``others_pass``: what was sent after these had failed was accepted, so they are at fault, not their target.
        """
        if self.is_retired:
            return [Stray(failed)]
        counts = self.policy.counts(outcome)
        batch = sent.part(failed)
        batch.payload, batch.sent = sent.payload, sent.sent
        if counts and sent.is_early and len(failed) == len(sent.entries) and outcome.failure is not Failure.OVERSIZE:
            return [Restored(batch)]
        keeps_failing = counts and batch.attempts + 1 >= self.aside_attempts
        is_alone = len(failed) == 1 or outcome.failure is Failure.ITEMS
        if self._is_cut(failed, outcome, counts) or (keeps_failing and others_pass and not is_alone):
            # As in event source mappings, cutting a batch in two does not count as an attempt.
            return [Again(half, counts) for half in halves(batch)]
        batch.attempts += counts
        if counts and len(failed) == 1 and outcome.failure is not Failure.ITEMS:
            # It would fail others along with it.
            batch.together = 1
        if outcome.failure is Failure.OVERSIZE or self.policy.gives_up(batch.attempts):
            return [_given_up(batch, outcome)]
        answers: list[Answer] = []
        old = [entry for entry in failed if self.policy.is_too_old(entry[1].captured_ms, unix_ms)]
        if old:
            late = batch.part(old)
            late.payload, late.sent = sent.payload, sent.sent
            answers.append(_given_up(late, outcome, "past maximum_record_age_in_seconds; "))
            batch.entries = without(failed, old)
        if batch.entries and keeps_failing and is_alone and others_pass:
            answers.append(SetAside(batch, _worded(outcome)))
        elif batch.entries:
            answers.append(Again(batch, counts, is_durable=keeps_failing and is_alone))
        return answers

    def _is_cut(self, failed: list[Entry], outcome: Outcome, counts: bool) -> bool:
        if len(failed) < 2:
            return False
        bisects = self.bisects and counts and outcome.failure is not Failure.ITEMS
        return bisects or outcome.failure is Failure.OVERSIZE


def _given_up(batch: Batch, outcome: Outcome, note: str = "") -> GivenUp:
    batch.verdict = _worded(outcome, note)
    return GivenUp(batch)


def _worded(outcome: Outcome, note: str = "") -> Outcome:
    """Return an outcome whose reason begins with the note, and says what kind of failure it is."""
    start = note if outcome.failure is Failure.NONE else f"{note}{outcome.failure.name.lower()}: "
    brief = f"{start}{outcome.brief}" if outcome.brief else ""
    return Outcome(outcome.failure, reason=f"{start}{outcome.reason}", brief=brief)


def reason_of(outcome: Outcome) -> str:
    """Return an outcome in words."""
    return f"{outcome.failure.name.lower()}: {outcome.reason}"
