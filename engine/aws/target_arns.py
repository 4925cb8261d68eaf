"""What a route's ``function`` may name besides a function: a Kinesis data stream or an SQS queue.  (pure)"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_REGION_ACCOUNT = r"(?P<region>[a-z]{2,}(?:-[a-z]+)+-\d{1,2}):(?P<account>\d{12})"
_STREAM = re.compile(rf"arn:aws[a-z-]*:kinesis:{_REGION_ACCOUNT}:stream/(?P<name>[A-Za-z0-9_.-]{{1,128}})")
_QUEUE = re.compile(
    rf"arn:aws[a-z-]*:sqs:{_REGION_ACCOUNT}:(?P<name>[A-Za-z0-9_-]{{1,80}}|[A-Za-z0-9_-]{{1,75}}\.fifo)"
)

STREAM_RECORD_BYTES_MAX = 1_048_576
"""Of a record and its partition key. A stream may be configured to accept 10 MiB; every stream accepts this."""

PARTITION_KEY_BYTES_MAX = 1_024
"""A partition key has up to 256 characters."""

QUEUE_MESSAGE_BYTES_MAX = 262_144
"""A queue may be configured to accept 1 MiB, or less than this; this is the default."""


@dataclass(frozen=True, slots=True)
class TargetArn:
    """A stream or a queue."""

    service: Literal["kinesis", "sqs"]
    arn: str
    region: str
    account: str
    name: str

    @property
    def is_fifo(self) -> bool:
        """Tell whether it is a FIFO queue."""
        return self.service == "sqs" and self.name.endswith(".fifo")

    @property
    def kind(self) -> str:
        """Return what it is, for people."""
        return "stream" if self.service == "kinesis" else "queue"


def parse_target_arn(function: str) -> TargetArn | None:
    """Return the stream or queue that a route's ``function`` names; None if it is something else."""
    if match := _STREAM.fullmatch(function):
        return TargetArn("kinesis", function, match["region"], match["account"], match["name"])
    if match := _QUEUE.fullmatch(function):
        return TargetArn("sqs", function, match["region"], match["account"], match["name"])
    return None
