"""Write requests → the table, by ``BatchWriteItem``, until each is written or has failed with a reason."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring as quoted
from typing import Any

from lambdas.contract import SetupError
from lambdas.dynamodb.calls import CHECK_KEY, Caller, Write, item_text, why_again
from lambdas.dynamodb.errors import CallRefused, NoAnswer
from lambdas.repeats import TimeLeft, TooLate, past_deadline, unbounded

log = logging.getLogger(__name__)

BATCH_ITEMS_MAX = 25
BATCH_BYTES_MAX = 15 * 1024 * 1024
"""DynamoDB takes 16 MB; its own framing needs some of it."""

RIGHT = "dynamodb:BatchWriteItem"


@dataclass(slots=True)
class _Run:
    """The writes of one invocation: its time, what failed for good, and until when a lost call may take effect."""

    time_left: TimeLeft
    failed: dict[str, str] = field(default_factory=dict)
    late_until_ms: int = 0


class BatchWriter(Caller):
    """Writes 25 items a call, none after the deadline: what comes later than a newer value would replace it."""

    def write(self, writes: Sequence[Write], time_left: TimeLeft) -> dict[str, str]:
        """Write all; return key → reason of those that were not.

        What DynamoDB leaves unprocessed is driven again with exponential backoff and full jitter, until
        ``attempts_max``, the deadline or the end of the invocation's time. Raises `SetupError` if no write can
        succeed.
        """
        run = _Run(time_left)
        try:
            pending = list(writes)
            for attempt in range(self._settings.attempts_max):
                if attempt and not self._repeats.pause(attempt, time_left):
                    break
                pending = [write for chunk in chunks(pending) for write in self._send(chunk, run)]
                if not pending:
                    break
        finally:
            self._outlive_lost_calls(run)
        run.failed.update((write.key, write.reason) for write in pending)
        return run.failed

    def check(self) -> None:
        """See whether the table is there and may be written; raise `SetupError` where not.

        It deletes an item that no Redis key can have: the one call that needs no other right than the writes.
        """
        run = _Run(unbounded())
        self._send([Write(CHECK_KEY, None, len(CHECK_KEY))], run)
        if run.failed:
            raise SetupError(f"the table {self._settings.table} does not accept our key: {run.failed[CHECK_KEY]}")

    def _send(self, chunk: Sequence[Write], run: _Run) -> list[Write]:
        """Send one chunk; note what can never be written in ``run``, return what is to be sent again."""
        if run.time_left.is_over():
            return [_not_written(write, past_deadline(write.reason)) for write in chunk]
        started_ms = run.time_left.now_ms()
        try:
            left = self._left_of(chunk, self._call("BatchWriteItem", self._request(chunk), run.time_left))
        except TooLate as late:
            return [_not_written(write, past_deadline(write.reason, str(late))) for write in chunk]
        except (CallRefused, NoAnswer) as error:
            if isinstance(error, NoAnswer) and error.is_lost:
                sent_ms = error.sent_ms or started_ms
                run.late_until_ms = max(run.late_until_ms, sent_ms + self._settings.late_effect_ms)
            return self._refused(chunk, error, run)
        reason = "DynamoDB left it unprocessed: the table is throttled"
        return [_not_written(write, reason) for write in chunk if write.key in left]

    def _left_of(self, chunk: Sequence[Write], answer: Mapping[str, Any]) -> set[str]:
        """Return the keys of what DynamoDB left unprocessed, by whatever name it calls the table.

        Raises `NoAnswer` where the answer does not add up: what it does not say was written was not.
        """
        unprocessed: Any = answer.get("UnprocessedItems")
        if unprocessed == {}:
            return set()
        try:
            requests = [request for table in unprocessed.values() for request in table]
            left = {self._key_of(request) for request in requests}
        except (AttributeError, KeyError, TypeError):
            raise NoAnswer("it does not say what was left unprocessed", is_lost=True) from None
        if len(left) < len(requests) or not left <= {write.key for write in chunk}:
            raise NoAnswer("what it left unprocessed was not in the call", is_lost=True)
        return left

    def _refused(self, chunk: Sequence[Write], error: CallRefused | NoAnswer, run: _Run) -> list[Write]:
        reason = why_again(error)
        if reason:
            return [_not_written(write, reason) for write in chunk]
        assert isinstance(error, CallRefused)
        self._raise_if_set_up_wrongly(error, RIGHT)
        if len(chunk) == 1:
            run.failed[chunk[0].key] = str(error)
            return []
        # One bad item rejects the whole call: find it by halves, so that its neighbours are written.
        half = len(chunk) // 2
        return self._send(chunk[:half], run) + self._send(chunk[half:], run)

    def _outlive_lost_calls(self, run: _Run) -> None:
        """Answer nothing while a call without an answer may still take effect.

        Once we have answered, the engine may deliver newer values of these keys. Where Lambda ends us first, the engine
        takes the invocation for lost, and waits in our place.
        """
        wait_ms = min(run.late_until_ms - run.time_left.now_ms(), self._settings.late_effect_ms)
        if wait_ms > 0:
            log.warning("DynamoDB left a call unanswered: waiting %d ms, in case it still takes effect", wait_ms)
            self._sleep(wait_ms / 1_000)

    def _request(self, chunk: Sequence[Write]) -> bytes:
        name = self._settings.key_attribute
        requests = [
            f'{{"PutRequest":{{"Item":{item_text(write.item)}}}}}'
            if write.item
            else f'{{"DeleteRequest":{{"Key":{item_text({name: {"S": write.key}})}}}}}'
            for write in chunk
        ]
        return f'{{"RequestItems":{{{quoted(self._settings.table)}:[{",".join(requests)}]}}}}'.encode()

    def _key_of(self, request: dict[str, Any]) -> str:
        name = self._settings.key_attribute
        if "PutRequest" in request:
            return str(request["PutRequest"]["Item"][name]["S"])
        return str(request["DeleteRequest"]["Key"][name]["S"])


def chunks(writes: Sequence[Write]) -> Iterator[list[Write]]:
    """Cut the writes into calls of at most 25 items and 15 MB."""
    chunk: list[Write] = []
    size = 0
    for write in writes:
        if chunk and (len(chunk) == BATCH_ITEMS_MAX or size + write.size > BATCH_BYTES_MAX):
            yield chunk
            chunk, size = [], 0
        chunk.append(write)
        size += write.size
    if chunk:
        yield chunk


def _not_written(write: Write, reason: str) -> Write:
    write.reason = reason
    return write
