"""An SQS queue: one message per changed key. In a FIFO queue its group is the Redis key, so each key is ordered."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.aws.target_arns import QUEUE_MESSAGE_BYTES_MAX
from engine.aws.wire import AnswerBrokeOff
from engine.delivery.targets.batches import BatchTarget, Part, Refusal, failure_of
from engine.model import Failure
from engine.tracing.mark import TRACEPARENT

CALL_MESSAGES_MAX = 10

_GROUP = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")
"""What a group's name may be; other keys are named by their digest."""

_STRING = "String"
_NOT_IN_MESSAGES = str.maketrans({"\ufffe": "\\ufffe", "\uffff": "\\uffff"})
"""The two characters of JSON that a message must not hold."""


class SqsTarget(BatchTarget):
    """One queue, by ``SendMessageBatch``. Limits: 10 messages and 256 KiB per call, which every queue accepts."""

    method = "send_message_batch"
    call_records_max = CALL_MESSAGES_MAX
    call_bytes_max = QUEUE_MESSAGE_BYTES_MAX
    record_bytes_max = QUEUE_MESSAGE_BYTES_MAX
    rights = "sqs:SendMessage and sqs:GetQueueAttributes"

    def size_of(self, part: Part) -> int:
        """Return the bytes of the message, and of its attribute where it is traced."""
        attribute_bytes = len(TRACEPARENT) + len(_STRING) + len(part.traceparent) if part.traceparent else 0
        return len(message_of(part).encode()) + attribute_bytes

    def parameters(self, call: Sequence[Part], endpoint: str) -> dict[str, Any]:
        """Return what sends these messages."""
        entries: list[dict[str, Any]] = [
            {"Id": str(index), "MessageBody": message_of(part)} for index, part in enumerate(call)
        ]
        for entry, part in zip(entries, call, strict=True):
            if part.traceparent:
                entry["MessageAttributes"] = {TRACEPARENT: {"DataType": _STRING, "StringValue": part.traceparent}}
        if self.place.is_fifo:
            for entry, part in zip(entries, call, strict=True):
                entry |= {"MessageGroupId": group_of(part.key), "MessageDeduplicationId": identity_of(part)}
        return {"QueueUrl": self._url(endpoint), "Entries": entries}

    def refusals_of(self, call: Sequence[Part], answer: Mapping[str, Any]) -> list[Refusal]:
        """Return the messages that were not sent: answers name them by position."""
        failed = {str(one["Id"]): one for one in answer.get("Failed") or []}
        taken = {str(one["Id"]) for one in answer.get("Successful") or []}
        if len(failed) + len(taken) != len(call):
            # botocore takes an answer that was cut off for an empty one.
            raise AnswerBrokeOff
        return [_refusal(call[int(index)], one) for index, one in failed.items()]

    def look(self, client: Any) -> None:
        """Ask for the queue's ARN."""
        client.get_queue_attributes(QueueUrl=self._url(client.meta.endpoint_url), AttributeNames=["QueueArn"])

    def _url(self, endpoint: str) -> str:
        return f"{endpoint.rstrip('/')}/{self.place.account}/{self.place.name}"


def _refusal(part: Part, told: Any) -> Refusal:
    code = str(told.get("Code", ""))
    is_ours = bool(told.get("SenderFault")) and failure_of(code) is Failure.REFUSED
    failure = Failure.ITEMS if is_ours else failure_of(code)
    return Refusal(part.record_id, failure, f"{code}: {told.get('Message', '')}")


def message_of(part: Part) -> str:
    """Return a record as the text of a message."""
    return text_of(part.data)


def text_of(data: bytes) -> str:
    """Return JSON as the text of a message."""
    return data.decode().translate(_NOT_IN_MESSAGES)


def group_of(key: str) -> str:
    """Return the group of a key's messages."""
    return key if _GROUP.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()


def identity_of(part: Part) -> str:
    """Return a message's deduplication id: for five minutes the queue drops the same value when it is sent again."""
    return hashlib.sha256(f"{part.identity}-{part.key}".encode()).hexdigest()
