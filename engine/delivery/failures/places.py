"""Where a route's dead letters go: the local file, an SQS queue, an S3 bucket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.aws.failure_arns import check_on_failure, parse_failure_arn
from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.failures.dead_letter import DeadLetter, FileSink

__all__ = ["FailureSink", "check_on_failure", "failure_sink"]


class FailureSink(Protocol):
    """Takes dead letters, for good. Called in a worker thread: it may block, but not forever."""

    def write(self, letters: Sequence[DeadLetter]) -> str:
        """Keep these letters of one route; return "" when all are durable, else why not, in one line with a remedy.

        What was not kept is handed over again later, together with what was: a letter may be there twice.
        """
        ...


def failure_sink(route: RouteSettings, delivery: DeliverySettings, aws: AwsSettings) -> FailureSink:
    """Return where this route's dead letters go. Nothing is opened or connected to before the first write."""
    file = FileSink(delivery.dead_letter_file, delivery.dead_letter_bytes_max)
    place = parse_failure_arn(route.on_failure)
    if place is None:
        assert not route.on_failure, "routes are checked before"
        return file
    # Clients of AWS are large: an invoker that does not need one does not load it.
    if place.service == "sqs":
        from engine.delivery.failures.sqs import SqsSink

        return SqsSink(place, aws, delivery, oversize=file)
    from engine.delivery.failures.s3 import S3Sink

    return S3Sink(place, aws, delivery)
