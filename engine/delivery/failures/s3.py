"""Dead letters to an S3 bucket: one object per write, one JSON object per line."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from zlib import crc32

from engine.aws.failure_arns import FailureArn
from engine.config import AwsSettings, DeliverySettings
from engine.delivery.failures.aws import EXPECTED, failure_text, make_client
from engine.delivery.failures.dead_letter import DeadLetter, encode_letter

RIGHT = "s3:PutObject"
CONTENT_TYPE = "application/x-ndjson"
_ROUTE_CHARS_MAX = 400
"""Of a route's name in an object's, which may have 1,024 bytes."""


def random_name() -> str:
    """Return a unique name."""
    return uuid.uuid4().hex


def route_folder(place: FailureArn, route: str) -> str:
    """Return the beginning of the names of a route's objects, up to and including a ``/``."""
    name = quote(route, safe="")
    if not name.strip("."):
        name = name.replace(".", "%2E")  # to many clients a folder named with dots alone means something else
    if len(name) > _ROUTE_CHARS_MAX:
        name = f"{name[:_ROUTE_CHARS_MAX]}-{crc32(name.encode()):08x}"
    return f"{place.prefix}/{name}/" if place.prefix else f"{name}/"


def object_name(place: FailureArn, route: str, at_ms: int, unique: str) -> str:
    """Return ``<prefix>/<route>/<year>/<month>/<day>/<hour>/<time>-<unique>.jsonl``, in UTC."""
    at = datetime.fromtimestamp(at_ms / 1_000, UTC)
    return f"{route_folder(place, route)}{at:%Y/%m/%d/%H/%Y-%m-%dT%H.%M.%S}-{unique}.jsonl"


class S3Sink:
    """One bucket. The client is made at the first use, so after the fork."""

    def __init__(
        self,
        place: FailureArn,
        aws: AwsSettings,
        delivery: DeliverySettings,
        unique: Callable[[], str] = random_name,
    ) -> None:
        self._place = place
        self._aws = aws
        self._delivery = delivery
        self._unique = unique
        self._lock = threading.Lock()
        self._client: Any = None

    def write(self, letters: Sequence[DeadLetter]) -> str:
        """Put these letters, of one route, into one object; return "" when it is there, else why not."""
        if not letters:
            return ""
        name = object_name(self._place, letters[0].route, letters[0].at_ms, self._unique())
        body = b"".join(encode_letter(letter) + b"\n" for letter in letters)
        try:
            self._ready().put_object(Bucket=self._place.name, Key=name, Body=body, ContentType=CONTENT_TYPE)
        except EXPECTED as error:
            return failure_text(self._place, "put dead letters", error, RIGHT)
        return ""

    def _ready(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = make_client(self._place, self._aws, self._delivery)
            return self._client
