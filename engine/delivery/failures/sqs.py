"""Dead letters to an SQS queue: one message per letter, ten per call."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec
import orjson

from engine.aws.failure_arns import FailureArn
from engine.aws.target_arns import QUEUE_MESSAGE_BYTES_MAX
from engine.config import AwsSettings, DeliverySettings
from engine.delivery.calls import calls_of
from engine.delivery.failures.aws import EXPECTED, describe, failure_text, hint_for, make_client, queue_url
from engine.delivery.failures.dead_letter import DeadLetter, encode_letter
from engine.delivery.targets.sqs import CALL_MESSAGES_MAX, text_of

RIGHT = "sqs:SendMessage"
_WHAT = "send dead letters"


class _Sink(Protocol):
    def write(self, letters: Sequence[DeadLetter]) -> str: ...


class SqsSink:
    """One queue. The client is made at the first use, so after the fork.

    A letter that is too large for a message goes without its record's body, and says so; one whose key alone is too
    large goes to ``oversize``.
    """

    def __init__(self, place: FailureArn, aws: AwsSettings, delivery: DeliverySettings, oversize: _Sink) -> None:
        self._place = place
        self._aws = aws
        self._delivery = delivery
        self._oversize = oversize
        self._lock = threading.Lock()
        self._client: Any = None

    def write(self, letters: Sequence[DeadLetter]) -> str:
        """Send these letters; return "" when the queue has all of them, else why not: then some may be there."""
        messages, too_large = [], []
        for letter in letters:
            message = message_of(letter)
            if message is None:
                too_large.append(letter)
            else:
                messages.append(message)
        try:
            client = self._ready()
            for call in calls_of(messages, _size_of, CALL_MESSAGES_MAX, QUEUE_MESSAGE_BYTES_MAX):
                if problem := self._send(client, call):
                    return problem
        except EXPECTED as error:
            return failure_text(self._place, _WHAT, error, RIGHT)
        return self._oversize.write(too_large) if too_large else ""

    def _send(self, client: Any, call: Sequence[str]) -> str:
        entries = [{"Id": str(index), "MessageBody": message} for index, message in enumerate(call)]
        answer = client.send_message_batch(QueueUrl=queue_url(client, self._place), Entries=entries)
        failed = answer.get("Failed") or []
        if not failed:
            # botocore takes an answer that was cut off for an empty one.
            is_whole = len(answer.get("Successful") or []) == len(call)
            return "" if is_whole else describe(self._place, _WHAT, "the answer was cut off", "it is retried")
        code, message = str(failed[0].get("Code", "")), str(failed[0].get("Message", ""))
        why = f"{len(failed)} of {len(call)} messages of a call: {code}: {message}"
        return describe(self._place, _WHAT, why, hint_for(code, message, RIGHT))

    def _ready(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = make_client(self._place, self._aws, self._delivery)
            return self._client


def message_of(letter: DeadLetter) -> str | None:
    """Return a letter as the text of a message, with as much of its record as fits; None if nothing of it does."""
    for shorter in _shorter(letter):
        text = text_of(encode_letter(shorter))
        if _size_of(text) <= QUEUE_MESSAGE_BYTES_MAX:
            return text
    return None


def _shorter(letter: DeadLetter) -> Iterator[DeadLetter]:
    yield letter
    if letter.record is msgspec.UNSET:
        return
    record = orjson.loads(bytes(letter.record))
    if record.pop("body", None) is not None:
        yield msgspec.structs.replace(letter, truncated=True, record=msgspec.Raw(orjson.dumps(record)))
    yield msgspec.structs.replace(letter, truncated=True, record=msgspec.UNSET)


def _size_of(text: str) -> int:
    return len(text.encode())
