"""The engine's batch for Powertools: a processor of its own, as Powertools has them made."""

from __future__ import annotations

import sys
import time
from typing import Any

from aws_lambda_powertools.utilities.batch import BasePartialProcessor


class DeadlinePassed(Exception):
    """The engine may be delivering a newer value of this key by now."""


class ChangedKeys(BasePartialProcessor):
    """Gives each record of a batch to a handler; those whose handler raises are delivered again, alone.

    Powertools' own processors know SQS, Kinesis, DynamoDB streams and Kafka, and fail a batch of which every record
    failed; here each record counts for itself. After ``deadline_ms`` (Unix time; 0: none) no record is begun.
    """

    def __init__(self) -> None:
        super().__init__()
        self.deadline_ms = 0
        self.failed: list[tuple[dict[str, Any], Exception]] = []

    def response(self) -> dict[str, list[dict[str, str]]]:
        """Return what the function answers."""
        return {"batchItemFailures": [{"itemIdentifier": record["record_id"]} for record, _ in self.failed]}

    def _prepare(self) -> None:
        self.success_messages.clear()
        self.fail_messages.clear()
        self.exceptions.clear()
        self.failed.clear()

    def _clean(self) -> None:
        pass

    def _process_record(self, record: dict[str, Any]) -> tuple[Any, ...]:
        try:
            if 0 < self.deadline_ms <= time.time_ns() // 1_000_000:
                raise DeadlinePassed("the batch's deadline has passed")
            return self.success_handler(record, self.handler(record))
        except Exception as error:
            self.failed.append((record, error))
            return self.failure_handler(record, sys.exc_info())

    async def _async_process_record(self, record: dict[str, Any]) -> tuple[Any, ...]:
        return self._process_record(record)
