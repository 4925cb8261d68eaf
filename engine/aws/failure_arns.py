"""What a route's ``on_failure`` may say, and where it leads.  (pure)"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_QUEUE = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):sqs:(?P<region>[a-z]{2,}(?:-[a-z]+)+-\d{1,2}):(?P<account>\d{12}):"
    r"(?P<name>[A-Za-z0-9_-]{1,80})"
)
_BUCKET = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):s3:::(?P<name>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[\w!.*'()/-]*))?",
    re.ASCII,
)
PREFIX_CHARS_MAX = 256
FORMS = (
    '"" for the dead-letter file, the ARN of an SQS queue (arn:aws:sqs:eu-west-1:123456789012:failed), '
    "or of an S3 bucket, with or without a prefix (arn:aws:s3:::failed/carts)"
)


@dataclass(frozen=True, slots=True)
class FailureArn:
    """An SQS queue or an S3 bucket; ``region`` and ``account`` are empty for a bucket, ``prefix`` for a queue.

    A prefix has no ``/`` at its ends.
    """

    service: Literal["sqs", "s3"]
    arn: str
    name: str
    region: str = ""
    account: str = ""
    prefix: str = ""


def parse_failure_arn(value: str) -> FailureArn | None:
    """Return where an ARN leads; None if it is not the ARN of a standard queue or of a bucket."""
    if match := _QUEUE.fullmatch(value):
        return FailureArn("sqs", value, match["name"], match["region"], match["account"])
    match = _BUCKET.fullmatch(value)
    if match and len(match["prefix"] or "") <= PREFIX_CHARS_MAX:
        return FailureArn("s3", value, match["name"], prefix=(match["prefix"] or "").strip("/"))
    return None


def check_on_failure(value: str) -> tuple[str, str] | None:
    """Return what is wrong with a route's ``on_failure``, and a hint; None if nothing is."""
    if not value or parse_failure_arn(value):
        return None
    if value.endswith(".fifo") and parse_failure_arn(value.removesuffix(".fifo")):
        # As in AWS: dead letters have no order to keep.
        return f"{value[:200]!r} is a FIFO queue", "name a standard queue"
    if re.match(r"arn:[^:]*:sns:", value):
        return f"{value[:200]!r} is an SNS topic, and dead letters cannot be read back from it", FORMS
    return f"{value[:200]!r} is not a valid place for dead letters", FORMS
