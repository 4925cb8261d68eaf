"""Dead letters in an S3 bucket: an object is deleted, or replaced by its rest, once its letters were sent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from engine.aws.failure_arns import FailureArn
from engine.config import AwsSettings, DeliverySettings
from engine.delivery.failures.aws import EXPECTED, failure_text, make_client
from engine.delivery.failures.s3 import CONTENT_TYPE, route_folder
from engine.redrive.source import Item, SourceError, in_chunks
from engine.redrive.sqs_source import service_ms

OBJECT_BYTES_MAX = 512 * 1024 * 1024
"""The engine writes one object per batch; a larger one than this is not its own."""

_OURS = re.compile(r"(?:.*/)?[^/]+/\d{4}/\d\d/\d\d/\d\d/[^/]+\.jsonl", re.DOTALL)
"""The names that `engine.delivery.failures.s3` gives; anything else in the bucket is ignored."""


class _Object:
    """One claimed object: its lines, and which of them are finished."""

    def __init__(self, key: str, lines: list[bytes]) -> None:
        self.key = key
        self.lines = lines
        self.done: set[int] = set()

    def items(self) -> Iterator[Item]:
        return (Item(index, line) for index, line in enumerate(self.lines) if line.strip())

    def rest(self) -> bytes:
        """Return what is still to be kept."""
        return b"".join(line for index, line in enumerate(self.lines) if index not in self.done and line.strip())


class S3Source:
    """The objects of some routes, or of all, that existed at the beginning."""

    def __init__(
        self, place: FailureArn, aws: AwsSettings, delivery: DeliverySettings, routes: Iterable[str] | None
    ) -> None:
        self.name = place.arn
        self._place = place
        self._aws = aws
        self._delivery = delivery
        if routes is None:
            self._folders = [f"{place.prefix}/" if place.prefix else ""]
        else:
            self._folders = [route_folder(place, route) for route in routes]
        self._client: Any = None
        self._started_ms = 0
        self._current: _Object | None = None

    def open(self) -> None:
        """Make the client."""
        try:
            self._client = make_client(self._place, self._aws, self._delivery)
        except EXPECTED as error:
            raise self._error("reach the bucket", error, "s3:ListBucket") from error

    def total(self) -> int | None:
        """Return None: only reading all of them would show it."""
        return None

    def chunks(self) -> Iterator[list[Item]]:
        """Yield the letters of one object after the other."""
        for key in self._keys():
            content = self._get(key)
            if content is None:
                continue
            self._current = _Object(key, content.splitlines(keepends=True))
            yield from in_chunks(self._current.items())
            self._settle()

    def _keys(self) -> Iterator[str]:
        for folder in self._folders:
            try:
                pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._place.name, Prefix=folder)
                for page in pages:
                    self._started_ms = self._started_ms or service_ms(page)
                    for entry in page.get("Contents", ()):
                        if _OURS.fullmatch(entry["Key"]) and self._is_due(entry):
                            yield self._checked(entry)
            except EXPECTED as error:
                raise self._error("list dead letters", error, "s3:ListBucket") from error

    def _is_due(self, entry: Any) -> bool:
        return not self._started_ms or entry["LastModified"].timestamp() * 1_000 <= self._started_ms

    def _checked(self, entry: Any) -> str:
        key: str = entry["Key"]
        if entry["Size"] > OBJECT_BYTES_MAX:
            raise SourceError(f"{self.name}: {key} has {entry['Size']} bytes", hint="the engine did not write it")
        return key

    def _get(self, key: str) -> bytes | None:
        try:
            body: bytes = self._client.get_object(Bucket=self._place.name, Key=key)["Body"].read()
        except self._client.exceptions.NoSuchKey:
            return None  # another redrive was quicker
        except EXPECTED as error:
            raise self._error(f"read {key}", error, "s3:GetObject") from error
        return body

    def remove(self, items: Sequence[Item]) -> None:
        """Note letters that need not be kept."""
        assert self._current is not None
        self._current.done.update(item.token for item in items)

    def _settle(self) -> None:
        """Delete the current object, or replace it by what is left of it."""
        current, self._current = self._current, None
        if current is None or not current.done:
            return
        where = {"Bucket": self._place.name, "Key": current.key}
        rest = current.rest()
        try:
            if rest:
                self._client.put_object(**where, Body=rest, ContentType=CONTENT_TYPE)
            else:
                self._client.delete_object(**where)
        except EXPECTED as error:
            what, right = ("put the rest of", "s3:PutObject") if rest else ("delete", "s3:DeleteObject")
            raise self._error(f"{what} {current.key}, whose letters were sent", error, right) from error

    def close(self) -> str:
        """Settle the current object."""
        try:
            self._settle()
        except SourceError as error:
            return str(error)
        return ""

    def _error(self, what: str, error: Exception, right: str) -> SourceError:
        return SourceError(failure_text(self._place, what, error, right))
