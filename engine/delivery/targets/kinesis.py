"""A Kinesis data stream: one record per changed key; the Redis key is its partition key, so each key is ordered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from engine.aws.target_arns import PARTITION_KEY_BYTES_MAX, STREAM_RECORD_BYTES_MAX
from engine.aws.wire import AnswerBrokeOff
from engine.delivery.targets.batches import BatchTarget, Part, Refusal, failure_of

PARTITION_KEY_CHARS_MAX = 256


class KinesisTarget(BatchTarget):
    """One stream, by ``PutRecords``. Limits: 500 records and 5 MiB per call, 1 MiB per record and partition key."""

    method = "put_records"
    call_records_max = 500
    call_bytes_max = 5 * 1_048_576
    record_bytes_max = STREAM_RECORD_BYTES_MAX - PARTITION_KEY_BYTES_MAX
    rights = "kinesis:PutRecords and kinesis:DescribeStreamSummary"

    def size_of(self, part: Part) -> int:
        """Return the bytes of the record and its partition key."""
        return len(part.data) + len(partition_key(part.key).encode())

    def parameters(self, call: Sequence[Part], endpoint: str) -> dict[str, Any]:
        """Return what puts these records."""
        records = [{"Data": part.data, "PartitionKey": partition_key(part.key)} for part in call]
        return {"StreamARN": self.place.arn, "Records": records}

    def refusals_of(self, call: Sequence[Part], answer: Mapping[str, Any]) -> list[Refusal]:
        """Return the records that were not put: the answers are in the same order."""
        answers = answer.get("Records") or []
        if len(answers) != len(call):
            # botocore takes an answer that was cut off for an empty one.
            raise AnswerBrokeOff
        return [
            Refusal(part.record_id, failure_of(code), f"{code}: {one.get('ErrorMessage', '')}")
            for part, one in zip(call, answers, strict=True)
            if (code := one.get("ErrorCode"))
        ]

    def look(self, client: Any) -> None:
        """Ask for the stream's summary."""
        client.describe_stream_summary(StreamARN=self.place.arn)


def partition_key(key: str) -> str:
    """Return a key's partition key: the key itself if it fits and is not empty, else its digest."""
    fits = 0 < len(key) <= PARTITION_KEY_CHARS_MAX
    return key if fits else hashlib.sha256(key.encode()).hexdigest()
