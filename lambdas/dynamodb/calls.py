"""What both writers share: time, repeats, and what DynamoDB's errors mean."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from lambdas.contract import Deadline, SetupError
from lambdas.dynamodb.items import Request
from lambdas.dynamodb.settings import Settings

CHECK_KEY = "utf8:check"
"""Stored keys begin with ``utf8:`` only before ``utf8:`` or ``base64:``, so this is nobody's."""

DEADLINE_PASSED = "the batch's deadline has passed"

PASSING = frozenset(
    {
        "InternalServerError",
        "ProvisionedThroughputExceededException",
        "ReplicatedWriteConflictException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "ThrottlingException",
        "TransactionConflictException",
    }
)
"""Errors that say nothing of the items: the same call may succeed a moment later."""


@dataclass(slots=True)
class Write:
    """One request under way; ``key`` is unique among those that are written together.

    ``reason`` says why it was not written at the last attempt.
    """

    key: str
    request: Request
    size: int
    reason: str = ""


class Writer(Protocol):
    """Writes until each write has been made or has failed with a reason."""

    def write(self, writes: Sequence[Write], time_left: TimeLeft) -> dict[str, str]:
        """Write all; return key → reason of those that were not. Raises `SetupError` where no write can succeed."""

    def check(self) -> None:
        """See whether the table is there and may be written; raise `SetupError` where not."""


class TimeLeft:
    """How long an invocation may write: until its batch's deadline, and until Lambda ends it.

    ``remaining_ms`` is what Lambda says, ``now_ms`` Unix time.
    """

    def __init__(self, remaining_ms: Callable[[], int], deadline: Deadline, now_ms: Callable[[], int]) -> None:
        self._remaining_ms = remaining_ms
        self._deadline = deadline
        self.now_ms = now_ms

    def is_over(self) -> bool:
        """Tell whether no write may start any more: the deadline has passed."""
        return self._deadline.has_passed(self.now_ms())

    def allows(self, wait_ms: float, reserve_ms: int) -> bool:
        """Tell whether after such a wait writes may still start, and Lambda leaves the invocation this reserve."""
        is_before = self._deadline.remaining_ms(self.now_ms()) > wait_ms
        return is_before and self._remaining_ms() - wait_ms >= reserve_ms


class Caller:
    """A client of DynamoDB, and when to call it again: the one layer that retries."""

    def __init__(
        self,
        client: Any,
        settings: Settings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._settings = settings
        self._sleep = sleep
        self._rng = rng

    def _pause(self, attempt: int, time_left: TimeLeft) -> bool:
        """Wait before a repeat: exponential backoff, full jitter; False, at once, where there is no time for it."""
        settings = self._settings
        bound_ms = min(settings.backoff_ms_max, settings.backoff_ms_min << (attempt - 1))
        wait_ms = self._rng() * bound_ms
        if not time_left.allows(wait_ms, settings.reserve_ms):
            return False
        self._sleep(wait_ms / 1_000)
        return True

    def _raise_if_set_up_wrongly(self, error: ClientError, right: str) -> None:
        """Raise `SetupError` where the table, or the right to it, is missing."""
        code, message = code_and_message(error)
        table = self._settings.table
        if code == "ResourceNotFoundException":
            region = self._client.meta.region_name
            raise SetupError(f"no table {table} in {region}: create it, or name another in DYNAMO_TABLE") from None
        if code in {"AccessDeniedException", "UnrecognizedClientException"}:
            raise SetupError(f"may not write to the table {table}: grant {right} on it ({message})") from None


def why_again(error: ClientError | BotoCoreError) -> str:
    """Return why a failed call is to be made again; "" where DynamoDB refuses what is in it."""
    if isinstance(error, BotoCoreError):
        return f"DynamoDB did not answer: {error}"
    code, message = code_and_message(error)
    if code in PASSING or error.response["ResponseMetadata"].get("HTTPStatusCode", 0) >= 500:
        return f"the table is throttled, or out of order: {code}: {message}"
    return ""


def past_deadline(write: Write) -> str:
    """Return the reason of a write that the deadline kept from being sent, or sent again."""
    return f"{DEADLINE_PASSED}; before that: {write.reason}" if write.reason else DEADLINE_PASSED


def is_lost(error: BotoCoreError) -> bool:
    """Tell whether the call may have reached DynamoDB, and take its effect even now."""
    # Errors of making the connection are no HTTPClientError.
    return isinstance(error, HTTPClientError)


def code_and_message(error: ClientError) -> tuple[str, str]:
    """Return what DynamoDB calls the error, and what it says of it."""
    told = error.response["Error"]
    return str(told["Code"]), str(told.get("Message", ""))
