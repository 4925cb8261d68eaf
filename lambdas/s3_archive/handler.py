"""The function: batches of changed keys → compressed JSON lines in an S3 bucket."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Sequence
from typing import Any

import boto3
from botocore.config import Config

from lambdas import contract
from lambdas.aws import refuse_half_answers
from lambdas.contract import Record
from lambdas.s3_archive.calls import TimeLeft
from lambdas.s3_archive.lines import Line, RecordRefused, line_of, objects_of
from lambdas.s3_archive.settings import Settings, read_settings
from lambdas.s3_archive.writer import ArchiveWriter


@functools.cache
def _settings() -> Settings:
    return read_settings(os.environ)


@functools.cache
def _writer() -> ArchiveWriter:
    """Return the container's writer, with its client."""
    settings = _settings()
    client = boto3.client(
        "s3",
        config=Config(
            connect_timeout=settings.connect_timeout_ms / 1_000,
            read_timeout=settings.read_timeout_ms / 1_000,
            retries={"total_max_attempts": 1},
        ),
    )
    return ArchiveWriter(refuse_half_answers(client), settings)


def now_us() -> int:
    """Return Unix time in microseconds."""
    return time.time_ns() // 1_000


def now_ms() -> int:
    """Return Unix time in milliseconds."""
    return now_us() // 1_000


def handler(event: Any, context: Any) -> dict[str, list[dict[str, str]]]:
    """Archive a batch, or the original's single record; what failed is in the answer, with its reason logged."""
    if not contract.is_batch(event):
        _write_single(event, context)
        return contract.answer(())
    records, malformed = contract.records_of(event)
    time_left = TimeLeft(context.get_remaining_time_in_millis, contract.deadline_of(event), now_ms)
    if not event["records"]:
        _writer().check()
    failed = dict(malformed)
    failed.update(write(_settings(), _writer(), records, time_left))
    keys = {record.record_id: record.id for record in records}
    for record_id, reason in failed.items():
        line = {"event": "record_failed", "record_id": record_id, "key": keys.get(record_id), "reason": reason}
        print(json.dumps(line), flush=True)
    return contract.answer(failed)


def _write_single(event: Any, context: Any) -> None:
    record = contract.single(event)
    time_left = TimeLeft(context.get_remaining_time_in_millis, contract.Deadline(), now_ms)
    failed = write(_settings(), _writer(), [record], time_left)
    if failed:
        raise RuntimeError(f"{record.id!r} was not archived: {failed[record.record_id]}")


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
