"""What both writers share: time, repeats, and what DynamoDB's errors mean."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from json import JSONEncoder
from json.encoder import encode_basestring as quoted
from typing import Any, Protocol

from lambdas.contract import DestinationUnavailable, SetupError
from lambdas.dynamodb.errors import CallRefused, NoAnswer
from lambdas.dynamodb.items import Item
from lambdas.dynamodb.settings import Settings
from lambdas.dynamodb.values import AttributeValue
from lambdas.repeats import Repeats, TimeLeft
from lambdas.signatures import is_of_the_signature

CHECK_KEY = "utf8:check"
"""Stored keys begin with ``utf8:`` only before ``utf8:`` or ``base64:``, so this is nobody's."""

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

PASSING_STATEMENTS = frozenset(
    {
        "InternalServerError",
        "ProvisionedThroughputExceeded",
        "RequestLimitExceeded",
        "ThrottlingError",
        "TransactionConflict",
    }
)
"""The same of one statement in a batch, where errors have names of their own."""


def text_of(value: AttributeValue) -> str:
    """Return an attribute value's JSON: what `encode` makes, in a third of the time where it is a string or number."""
    text = value.get("S")
    if text is not None:
        return f'{{"S":{quoted(text)}}}'
    number = value.get("N")
    return f'{{"N":{quoted(number)}}}' if number is not None else encode(value)


def item_text(item: Item) -> str:
    """Return an item's JSON."""
    return f"{{{','.join([f'{quoted(name)}:{text_of(value)}' for name, value in item.items()])}}}"


encode = JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


@dataclass(slots=True)
class Write:
    """One item under way, None to delete it; ``key`` is unique among those that are written together.

    ``reason`` says why it was not written at the last attempt.
    """

    key: str
    item: Item | None
    size: int
    reason: str = ""


class Service(Protocol):
    """DynamoDB, as `lambdas.dynamodb.client.Client` reaches it."""

    region: str

    def call(self, operation: str, body: bytes, time_left: TimeLeft) -> dict[str, Any]:
        """Return the answer; raise `CallRefused`, `NoAnswer`, or `TooLate` where there is none."""


class Writer(Protocol):
    """Writes until each write has been made or has failed with a reason."""

    def write(self, writes: Sequence[Write], time_left: TimeLeft) -> dict[str, str]:
        """Write all; return key → reason of those that were not. Raises `SetupError` if no write can succeed."""

    def check(self) -> None:
        """See whether the table is there and may be written; raise `SetupError` where not."""


class Caller:
    """DynamoDB, and when to call it again: the one layer that retries."""

    def __init__(
        self,
        client: Service,
        settings: Settings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._settings = settings
        self._sleep = sleep
        self._repeats = Repeats(settings, sleep, rng)

    def _call(self, operation: str, body: bytes, time_left: TimeLeft) -> dict[str, Any]:
        """Return the answer to one call, signed again where DynamoDB does not take the signature.

        Raises `DestinationUnavailable` where it takes none: that says nothing of what is in the call.
        """
        for attempt in range(self._settings.attempts_max):
            # The client has learned from the first refusal, so the second attempt need not wait.
            if attempt > 1 and not self._repeats.pause(attempt - 1, time_left):
                break
            try:
                return self._client.call(operation, body, time_left)
            except CallRefused as error:
                if not is_of_the_signature(error.code):
                    raise
                reason = str(error)
        raise DestinationUnavailable(f"DynamoDB rejects the function's signature: {reason}")

    def _raise_if_set_up_wrongly(self, error: CallRefused, right: str) -> None:
        """Raise `SetupError` if the table, or the right to it, is missing."""
        self._check_set_up(error.code, error.message, right)

    def _check_set_up(self, code: str, message: str, right: str) -> None:
        table = self._settings.table
        # The statements of a batch have errors of their own, without "Exception".
        code = code.removesuffix("Exception")
        if code == "ResourceNotFound":
            region = self._client.region
            raise SetupError(f"no table {table} in {region}: create it, or name another in DYNAMO_TABLE") from None
        if code in {"AccessDenied", "UnrecognizedClient"}:
            raise SetupError(f"may not write to the table {table}: grant {right} on it ({message})") from None


def why_again(error: CallRefused | NoAnswer) -> str:
    """Return why a failed call is to be made again; "" where DynamoDB refuses what is in it."""
    if isinstance(error, NoAnswer):
        return f"DynamoDB did not answer: {error}"
    if error.code in PASSING or error.status >= 500:
        return f"the table is throttled or out of service: {error}"
    return ""
