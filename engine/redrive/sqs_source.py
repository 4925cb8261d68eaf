"""Dead letters in an SQS queue: received, and deleted once they were sent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from engine.aws.failure_arns import FailureArn
from engine.clock import now_ms
from engine.config import AwsSettings, DeliverySettings
from engine.delivery.failures.aws import EXPECTED, describe, failure_text, hint_for, make_client, queue_url
from engine.delivery.targets.sqs import CALL_MESSAGES_MAX
from engine.redrive.source import Item, SourceError, in_chunks

VISIBLE_AFTER_S = 120
"""How long a message is hidden from others. Messages that we keep become visible again then, even if we were killed."""

KEPT_MAX = 10_000
GIVEN_BACK_MAX = 1_000
"""This many of the kept messages are made visible at once; the others become visible by themselves."""

_WAIT_S = 2
_IDLE_RECEIVES_MAX = 3
_CLOCK_MS = 1_000
"""The service reports its time in whole seconds."""


def service_ms(answer: Any) -> int:
    """Return the service's time from its answer (Unix ms), 0 if there is none."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        date = answer["ResponseMetadata"]["HTTPHeaders"]["date"]
        return int(parsedate_to_datetime(date).timestamp() * 1_000) + _CLOCK_MS
    return 0


class SqsSource:
    """One queue, as it was at the beginning: a letter that fails again meanwhile is not received again."""

    def __init__(self, place: FailureArn, aws: AwsSettings, delivery: DeliverySettings) -> None:
        self.name = place.arn
        self._place = place
        self._aws = aws
        self._delivery = delivery
        self._client: Any = None
        self._started_ms = 0
        self._kept: dict[str, str] = {}
        """Message id → its newest receipt handle, of all that was received and not deleted."""

    def open(self) -> None:
        """Make the client."""
        try:
            self._client = make_client(self._place, self._aws, self._delivery)
        except EXPECTED as error:
            raise self._error("reach the queue", error, "sqs:ReceiveMessage") from error

    def total(self) -> int | None:
        """Return about how many messages the queue reports."""
        with contextlib.suppress(*EXPECTED):
            wanted = "ApproximateNumberOfMessages"
            answer = self._client.get_queue_attributes(QueueUrl=self._url(), AttributeNames=[wanted])
            return int(answer["Attributes"][wanted])
        return None

    def chunks(self) -> Iterator[list[Item]]:
        """Yield messages until the queue returns no others."""
        return in_chunks(self._items())

    def _items(self) -> Iterator[Item]:
        idle = 0
        while idle < _IDLE_RECEIVES_MAX and (messages := self._receive()):
            idle += 1
            for message in messages:
                name = message["MessageId"]
                is_new = name not in self._kept
                self._kept[name] = message["ReceiptHandle"]
                if is_new and self._is_due(message):
                    idle = 0
                    yield Item(name, message["Body"].encode("utf-8", "surrogatepass"))
            if len(self._kept) > KEPT_MAX:
                raise SourceError(
                    f"{self.name}: holds more than {KEPT_MAX} messages that are not to be sent now",
                    hint="give each route a queue of its own, or redrive all routes of this one",
                )

    def _is_due(self, message: Any) -> bool:
        return int(message.get("Attributes", {}).get("SentTimestamp", 0)) <= self._started_ms

    def _receive(self) -> Any:
        try:
            answer = self._client.receive_message(
                QueueUrl=self._url(),
                MaxNumberOfMessages=CALL_MESSAGES_MAX,
                VisibilityTimeout=VISIBLE_AFTER_S,
                WaitTimeSeconds=_WAIT_S,
                AttributeNames=["SentTimestamp"],
            )
        except EXPECTED as error:
            raise self._error("receive dead letters", error, "sqs:ReceiveMessage") from error
        self._started_ms = self._started_ms or service_ms(answer) or now_ms()
        return answer.get("Messages")

    def remove(self, items: Sequence[Item]) -> None:
        """Delete messages; one that can't be deleted becomes visible again, and is then sent twice."""
        what, right = "delete dead letters that were sent", "sqs:DeleteMessage"
        for entries in self._entries([str(item.token) for item in items]):
            try:
                answer = self._client.delete_message_batch(QueueUrl=self._url(), Entries=entries)
            except EXPECTED as error:
                raise self._error(what, error, right) from error
            if failed := answer.get("Failed"):
                code, message = str(failed[0].get("Code", "")), str(failed[0].get("Message", ""))
                hint = hint_for(code, message, right)
                raise SourceError(describe(self._place, what, f"{code}: {message}", hint))
        for item in items:
            del self._kept[str(item.token)]

    def close(self) -> str:
        """Make the kept messages visible to others."""
        kept = list(self._kept)[:GIVEN_BACK_MAX]
        # Otherwise they become visible by themselves, later: that is not the user's problem.
        with contextlib.suppress(*EXPECTED):
            for entries in self._entries(kept):
                hidden = [{**entry, "VisibilityTimeout": 0} for entry in entries]
                self._client.change_message_visibility_batch(QueueUrl=self._url(), Entries=hidden)
        return ""

    def _entries(self, names: Sequence[str]) -> Iterator[list[dict[str, str]]]:
        for start in range(0, len(names), CALL_MESSAGES_MAX):
            part = names[start : start + CALL_MESSAGES_MAX]
            yield [{"Id": str(index), "ReceiptHandle": self._kept[name]} for index, name in enumerate(part)]

    def _url(self) -> str:
        return queue_url(self._client, self._place)

    def _error(self, what: str, error: Exception, right: str) -> SourceError:
        return SourceError(failure_text(self._place, what, error, right))
