"""Write requests → the table, by ``BatchWriteItem``, until each is written or has failed with a reason."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from lambdas.contract import SetupError
from lambdas.dynamodb.items import Request
from lambdas.dynamodb.settings import Settings

BATCH_ITEMS_MAX = 25
BATCH_BYTES_MAX = 15 * 1024 * 1024
"""DynamoDB takes 16 MB; its own framing needs some of it."""

CHECK_KEY = "utf8:check"
"""Stored keys begin with ``utf8:`` only before ``utf8:`` or ``base64:``, so this is nobody's."""

THROTTLES = frozenset(
    {
        "InternalServerError",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "ThrottlingException",
    }
)


@dataclass(slots=True)
class Write:
    """One request under way; ``key`` is unique among those that are written together."""

    key: str
    request: Request
    size: int


class BatchWriter:
    """Writes with one retrying layer, this one: the client's own attempts are off."""

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

    def write(self, writes: Sequence[Write], remaining_ms: Callable[[], int]) -> dict[str, str]:
        """Write all; return key → reason of those that were not.

        What DynamoDB leaves unprocessed is driven again with exponential backoff and full jitter, until
        ``attempts_max`` or the invocation's time is over. Raises `SetupError` where no write can succeed.
        """
        failed: dict[str, str] = {}
        pending = list(writes)
        for attempt in range(self._settings.attempts_max):
            if attempt and not self._pause(attempt, remaining_ms):
                break
            left: list[Write] = []
            for chunk in chunks(pending):
                left += self._send(chunk, failed)
            pending = left
            if not pending:
                break
        failed.update((write.key, "DynamoDB left it unprocessed: the table is throttled") for write in pending)
        return failed

    def check(self) -> None:
        """See whether the table is there and may be written; raise `SetupError` where not.

        It deletes an item that no Redis key can have: the one call that needs no other right than the writes.
        """
        key = {self._settings.key_attribute: {"S": CHECK_KEY}}
        failed: dict[str, str] = {}
        self._send([Write(CHECK_KEY, {"DeleteRequest": {"Key": key}}, len(CHECK_KEY))], failed)
        if failed:
            raise SetupError(f"the table {self._settings.table} does not take our key: {failed[CHECK_KEY]}")

    def _pause(self, attempt: int, remaining_ms: Callable[[], int]) -> bool:
        settings = self._settings
        bound_ms = min(settings.backoff_ms_max, settings.backoff_ms_min << (attempt - 1))
        wait_ms = self._rng() * bound_ms
        if remaining_ms() - wait_ms < settings.reserve_ms:
            return False
        self._sleep(wait_ms / 1_000)
        return True

    def _send(self, chunk: Sequence[Write], failed: dict[str, str]) -> list[Write]:
        """Send one chunk; note what can never be written in ``failed``, return what is to be sent again."""
        table = self._settings.table
        try:
            answer = self._client.batch_write_item(RequestItems={table: [write.request for write in chunk]})
        except ClientError as error:
            return self._refused(chunk, error, failed)
        except BotoCoreError:
            return list(chunk)
        unprocessed = answer.get("UnprocessedItems", {}).get(table, [])
        if not unprocessed:
            return []
        left = {self._key_of(request) for request in unprocessed}
        return [write for write in chunk if write.key in left]

    def _refused(self, chunk: Sequence[Write], error: Any, failed: dict[str, str]) -> list[Write]:
        code = error.response["Error"]["Code"]
        message = error.response["Error"].get("Message", "")
        if code in THROTTLES or error.response["ResponseMetadata"].get("HTTPStatusCode", 0) >= 500:
            return list(chunk)
        if code == "ResourceNotFoundException":
            region = self._client.meta.region_name
            raise SetupError(
                f"no table {self._settings.table} in {region}: create it, or name another in DYNAMO_TABLE"
            ) from None
        if code in {"AccessDeniedException", "UnrecognizedClientException"}:
            raise SetupError(
                f"may not write to the table {self._settings.table}: grant dynamodb:BatchWriteItem on it ({message})"
            ) from None
        if len(chunk) == 1:
            failed[chunk[0].key] = f"{code}: {message}"
            return []
        # One bad item rejects the whole call: find it by halves, so that its neighbours are written.
        half = len(chunk) // 2
        return self._send(chunk[:half], failed) + self._send(chunk[half:], failed)

    def _key_of(self, request: Request) -> str:
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
