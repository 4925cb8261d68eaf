"""Versioned items → the table, each by a ``PutItem`` that takes effect only on an older version.

One call an item, which costs four times the CPU of `lambdas.dynamodb.versioned`: for item mode ``attributes`` alone.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from enum import Enum, auto
from typing import Any

from lambdas.contract import SetupError
from lambdas.dynamodb.calls import CHECK_KEY, Caller, Write, encode, why_again
from lambdas.dynamodb.errors import CallRefused, NoAnswer
from lambdas.dynamodb.settings import Settings
from lambdas.repeats import TimeLeft, TooLate, past_deadline, unbounded

RIGHT = "dynamodb:PutItem"
NOT_NEWER = "ConditionalCheckFailedException"

# What is no number is no version: a field of a hash, from before writes were versioned.
IS_NEWER = "attribute_not_exists(#v) OR NOT attribute_type(#v, :number) OR #v < :v"

log = logging.getLogger(__name__)


class Put(Enum):
    """What became of a write."""

    WRITTEN = auto()
    SUPERSEDED = auto()
    """The table has this version, or a newer one."""
    AGAIN = auto()
    FAILED = auto()


class PutWriter(Caller):
    """Writes items one by one, in ``concurrency`` threads that share the client."""

    def __init__(self, client: Any, settings: Settings, **options: Any) -> None:
        super().__init__(client, settings, **options)
        self._pool = ThreadPoolExecutor(settings.concurrency, "put")

    def write(self, writes: Sequence[Write], time_left: TimeLeft) -> dict[str, str]:
        """Write all; return key → reason of those that were not. A newer version in the table is a success.

        Raises `SetupError` if no write can succeed. No call is under way any more when this ends.
        """
        queue = deque(writes)
        threads = min(self._settings.concurrency, len(writes))
        futures = [self._pool.submit(self._work, queue, time_left) for _ in range(threads)]
        wait(futures)
        failed: dict[str, str] = {}
        superseded = 0
        for future in futures:
            some_failed, some_superseded = future.result()
            failed |= some_failed
            superseded += some_superseded
        if superseded:
            log.debug(json.dumps({"event": "records_superseded", "records": superseded}))
        return failed

    def check(self) -> None:
        """See whether the table is there and may be written; raise `SetupError` where not.

        It puts an item only where it is there already, which it never is: a write like all, that leaves nothing behind.
        """
        key = self._settings.key_attribute
        write = Write(CHECK_KEY, {key: {"S": CHECK_KEY}}, 0)
        condition = {"ConditionExpression": "attribute_exists(#k)", "ExpressionAttributeNames": {"#k": key}}
        if self._put(write, condition, unbounded()) is Put.FAILED:
            raise SetupError(f"the table {self._settings.table} does not accept our key: {write.reason}")

    def _work(self, queue: deque[Write], time_left: TimeLeft) -> tuple[dict[str, str], int]:
        """Write what the queue holds until it is empty; return what failed and how many were superseded."""
        failed: dict[str, str] = {}
        superseded = 0
        while write := _next(queue):
            put = self._drive(write, time_left)
            if put is Put.FAILED:
                failed[write.key] = write.reason
            superseded += put is Put.SUPERSEDED
        return failed, superseded

    def _drive(self, write: Write, time_left: TimeLeft) -> Put:
        """Send one write until it is settled, or the attempts or the time are used up."""
        for attempt in range(self._settings.attempts_max):
            if attempt and not self._repeats.pause(attempt, time_left):
                break
            if time_left.is_over():
                write.reason = past_deadline(write.reason)
                break
            put = self._put(write, self._is_newer(write), time_left)
            if put is not Put.AGAIN:
                return put
        return Put.FAILED

    def _is_newer(self, write: Write) -> dict[str, Any]:
        assert write.item
        name = self._settings.version_attribute
        return {
            "ConditionExpression": IS_NEWER,
            "ExpressionAttributeNames": {"#v": name},
            "ExpressionAttributeValues": {":v": write.item[name], ":number": {"S": "N"}},
        }

    def _put(self, write: Write, condition: dict[str, Any], time_left: TimeLeft) -> Put:
        request = {"TableName": self._settings.table, "Item": write.item, **condition}
        try:
            self._call("PutItem", encode(request).encode(), time_left)
        except TooLate as late:
            write.reason = past_deadline(write.reason, str(late))
            return Put.FAILED
        except (CallRefused, NoAnswer) as error:
            write.reason = why_again(error)
            if write.reason:
                return Put.AGAIN
            assert isinstance(error, CallRefused)
            if error.code == NOT_NEWER:
                return Put.SUPERSEDED
            self._raise_if_set_up_wrongly(error, RIGHT)
            write.reason = str(error)
            return Put.FAILED
        return Put.WRITTEN


def _next(queue: deque[Write]) -> Write | None:
    # Asking first whether it is empty would be a race.
    try:
        return queue.popleft()
    except IndexError:
        return None
