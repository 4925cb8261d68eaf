"""The function: batches of changed keys → compressed JSON lines in an S3 bucket."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from typing import Any

import boto3
from botocore.config import Config

from lambdas import contract
from lambdas.aws import refuse_half_answers
from lambdas.contract import Record
from lambdas.repeats import TimeLeft
from lambdas.s3_archive.lines import Line, RecordRefused, line_of, objects_of
from lambdas.s3_archive.settings import Settings, read_settings
from lambdas.s3_archive.writer import ArchiveWriter
from lambdas.serving import serve_batch, serve_single


@functools.cache
def _settings() -> Settings:
    return read_settings(os.environ)


@functools.cache
def _writer() -> ArchiveWriter:
    """Return the container's writer, with its client."""
    settings = _settings()
    return ArchiveWriter(functools.partial(_connect, settings), settings)


def _connect(settings: Settings) -> Any:
    config = Config(
        connect_timeout=settings.connect_timeout_ms / 1_000,
        read_timeout=settings.read_timeout_ms / 1_000,
        retries={"total_max_attempts": 1},
    )
    # A session of its own: the default one would keep the credentials that it found first.
    return refuse_half_answers(boto3.Session().client("s3", config=config))


def now_us() -> int:
    """Return Unix time in microseconds."""
    return time.time_ns() // 1_000


def now_ms() -> int:
    """Return Unix time in milliseconds."""
    return now_us() // 1_000


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Archive a batch, or the original's single record; what failed is in the answer, with its reason logged."""
    if not contract.is_batch(event):
        return serve_single(contract.single(event), context, now_ms, _write)
    # No value replaces another: whoever reads them goes by the version.
    return serve_batch(event, context, now_ms, _write, lambda _: _writer().check(), refuses_older_versions=True)


def _write(records: Sequence[Record], time_left: TimeLeft) -> dict[str, str]:
    return write(_settings(), _writer(), records, time_left)


def write(settings: Settings, writer: ArchiveWriter, records: Sequence[Record], time_left: TimeLeft) -> dict[str, str]:
    """Append a line for each record; return record_id → reason of those that were not appended."""
    failed: dict[str, str] = {}
    lines: list[Line] = []
    arrived_us = now_us()
    for record in records:
        try:
            lines.append(line_of(record, settings, arrived_us))
        except RecordRefused as error:
            failed[record.record_id] = str(error)
    failed.update(writer.write(objects_of(lines, settings), time_left))
    return failed
