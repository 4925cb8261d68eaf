"""Versioned items → the table, 25 a call, each taking effect only on an older version.

For several engines on one table: whoever comes late, by whatever clock, never replaces a newer value.
``BatchExecuteStatement`` is DynamoDB's only batch whose writes have a condition each, and an answer each.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from lambdas.contract import SetupError
from lambdas.dynamodb.calls import (
    CHECK_KEY,
    PASSING_STATEMENTS,
    Caller,
    Service,
    Write,
    why_again,
)
from lambdas.dynamodb.errors import CallRefused, NoAnswer
from lambdas.dynamodb.settings import Settings
from lambdas.dynamodb.statements import Statements
from lambdas.dynamodb.writer import chunks
from lambdas.repeats import TimeLeft, TooLate, past_deadline, unbounded

RIGHT = "dynamodb:PartiQLUpdate and dynamodb:PartiQLInsert"
UNHEARD_KEYS_MAX = 10_000
"""Of so many keys a container remembers which kind of statement is to be next."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Run:
    """What became of the writes of one invocation; each of its threads has its own."""

    failed: dict[str, str] = field(default_factory=dict)
    superseded: int = 0
    turned: int = 0
    """Writes whose first statement was of the wrong kind."""
    unheard: dict[str, bool] = field(default_factory=dict)
    """Of writes whose last statement was not answered: key → whether the next one is to be an INSERT."""


@dataclass(slots=True)
class _Upsert:
    """A write, and whether its next statement is an INSERT; ``is_there`` once DynamoDB has said that its item is.

    ``is_unheard`` where its last statement was not answered.
    """

    write: Write
    inserts: bool
    is_there: bool = False
    is_unheard: bool = False


class VersionedWriter(Caller):
    """Writes 25 items a call, in up to ``concurrency`` calls at once."""

    def __init__(self, client: Service, settings: Settings, **options: Any) -> None:
        super().__init__(client, settings, **options)
        self._pool = ThreadPoolExecutor(settings.concurrency, "upsert")
        self._statements = Statements(settings)
        self._inserts_first = False
        self._unheard: dict[str, bool] = {}
        """As in `_Run`, of the invocations before: one whose time is up after a single statement may not repeat it."""

    def write(self, writes: Sequence[Write], time_left: TimeLeft) -> dict[str, str]:
        """Write all; return key → reason of those that were not. A newer version in the table is a success.

        Raises `SetupError` if no write can succeed. No call is under way any more when this ends.
        """
        queue = deque(chunks(writes))
        threads = min(self._settings.concurrency, len(queue))
        futures = [self._pool.submit(self._work, queue, time_left) for _ in range(threads)]
        wait(futures)
        runs = [future.result() for future in futures]
        if superseded := sum(run.superseded for run in runs):
            log.debug(json.dumps({"event": "records_superseded", "records": superseded}))
        # A statement of the wrong kind costs a write unit and a second one: keys are mostly new, or mostly known.
        if 2 * sum(run.turned for run in runs) > len(writes):
            self._inserts_first = not self._inserts_first
        for run in runs:
            self._unheard |= run.unheard
        if len(self._unheard) > UNHEARD_KEYS_MAX:
            self._unheard.clear()
        return {key: reason for run in runs for key, reason in run.failed.items()}

    def check(self) -> None:
        """See whether the table is there and may be written; raise `SetupError` where not.

        It updates an item that no Redis key can have, and so none. The right to insert shows with the first new key.
        """
        key, version = self._settings.key_attribute, self._settings.version_attribute
        run = _Run()
        write = Write(CHECK_KEY, {key: {"S": CHECK_KEY}, version: {"N": "1"}}, len(CHECK_KEY))
        time_left = unbounded()
        self._send([_Upsert(write, inserts=False)], run, time_left)
        if run.failed:
            raise SetupError(f"the table {self._settings.table} does not accept our key: {run.failed[CHECK_KEY]}")

    def _work(self, queue: deque[list[Write]], time_left: TimeLeft) -> _Run:
        """Write the chunks that the queue holds, until it is empty."""
        run = _Run()
        while True:
            # Asking first whether it is empty would be a race.
            try:
                chunk = queue.popleft()
            except IndexError:
                return run
            try:
                self._drive(chunk, run, time_left)
            except Exception:
                # What ends the batch ends it for all threads.
                queue.clear()
                raise

    def _drive(self, chunk: Sequence[Write], run: _Run, time_left: TimeLeft) -> None:
        """Send one chunk until all of it is settled, or the attempts or the time are used up."""
        first, unheard = self._inserts_first, self._unheard
        pending = [_Upsert(write, first) for write in chunk]
        if unheard:
            for upsert in pending:
                upsert.inserts = unheard.pop(upsert.write.key, first)
        attempt = 0
        while pending:
            turned, again = self._send(pending, run, time_left)
            pending = turned + again
            if again:
                attempt += 1
                if attempt == self._settings.attempts_max or not self._repeats.pause(attempt, time_left):
                    break
        run.failed.update((upsert.write.key, upsert.write.reason) for upsert in pending)
        run.unheard.update((upsert.write.key, upsert.inserts) for upsert in pending if upsert.is_unheard)

    def _send(self, upserts: Sequence[_Upsert], run: _Run, time_left: TimeLeft) -> tuple[list[_Upsert], list[_Upsert]]:
        """Send one call; return those whose statement was of the wrong kind, and those to send again later."""
        if time_left.is_over():
            run.failed.update((upsert.write.key, past_deadline(upsert.write.reason)) for upsert in upserts)
            return [], []
        make = (self._statements.update, self._statements.insert)
        statements = [make[upsert.inserts](upsert.write.item) for upsert in upserts if upsert.write.item]
        try:
            body = f'{{"Statements":[{",".join(statements)}]}}'.encode()
            responses = _responses_of(self._call("BatchExecuteStatement", body, time_left), len(upserts))
        except TooLate as late:
            run.failed.update((one.write.key, past_deadline(one.write.reason, str(late))) for one in upserts)
            return [], []
        except (CallRefused, NoAnswer) as error:
            return self._refused(upserts, error, run, time_left)
        turned: list[_Upsert] = []
        again: list[_Upsert] = []
        for upsert, response in zip(upserts, responses, strict=True):
            if refusal := response.get("Error"):
                self._settle(upsert, refusal, run, turned, again)
        return turned, again

    def _settle(
        self, upsert: _Upsert, refusal: dict[str, Any], run: _Run, turned: list[_Upsert], again: list[_Upsert]
    ) -> None:
        upsert.is_unheard = False
        code, message, write = str(refusal.get("Code")), str(refusal.get("Message", "")), upsert.write
        if code == "ConditionalCheckFailed" and (upsert.is_there or refusal.get("Item")):
            run.superseded += 1
        elif code in {"ConditionalCheckFailed", "DuplicateItem"}:
            run.turned += not upsert.is_there
            upsert.inserts = not upsert.inserts
            # From here on only time to live could remove it: an UPDATE that is refused has met a newer one.
            upsert.is_there = code == "DuplicateItem"
            write.reason = "other writers keep changing its item"
            turned.append(upsert)
        elif code in PASSING_STATEMENTS:
            write.reason = f"the table is throttled or out of service: {code}: {message}"
            again.append(upsert)
        else:
            self._check_set_up(code, message, RIGHT)
            run.failed[write.key] = f"{code}: {message}"

    def _refused(
        self, upserts: Sequence[_Upsert], error: CallRefused | NoAnswer, run: _Run, time_left: TimeLeft
    ) -> tuple[list[_Upsert], list[_Upsert]]:
        reason = why_again(error)
        if reason:
            for upsert in upserts:
                upsert.write.reason = reason
                if not isinstance(error, NoAnswer) or error.is_lost:
                    # Whether the item is there is not known, so the other kind has its turn: both are conditional.
                    upsert.inserts, upsert.is_there, upsert.is_unheard = not upsert.inserts, False, True
            return [], list(upserts)
        assert isinstance(error, CallRefused)
        self._raise_if_set_up_wrongly(error, RIGHT)
        if len(upserts) == 1:
            run.failed[upserts[0].write.key] = str(error)
            return [], []
        # One bad item rejects the whole call: find it by halves, so that its neighbours are written.
        half = len(upserts) // 2
        first, second = (self._send(part, run, time_left) for part in (upserts[:half], upserts[half:]))
        return first[0] + second[0], first[1] + second[1]


def _responses_of(answer: Mapping[str, Any], statements: int) -> list[dict[str, Any]]:
    """Return what became of each statement; raise `NoAnswer` where the answer does not say it of all."""
    responses = answer.get("Responses")
    if not isinstance(responses, list) or not set(map(type, responses)) <= {dict}:
        raise NoAnswer("it does not report the statements' results", is_lost=True)
    if len(responses) != statements:
        raise NoAnswer(f"it answers {len(responses)} of {statements} statements", is_lost=True)
    return responses
