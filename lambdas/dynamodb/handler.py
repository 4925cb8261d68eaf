"""The function: batches of changed keys → items of a DynamoDB table."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import boto3
from botocore.config import Config

from lambdas import contract
from lambdas.contract import Record
from lambdas.dynamodb.items import ItemError, request_of, table_key
from lambdas.dynamodb.settings import Settings, read_settings
from lambdas.dynamodb.writer import BatchWriter, Write

CONNECT_TIMEOUT_S = 2
READ_TIMEOUT_S = 5


@functools.cache
def _settings() -> Settings:
    return read_settings(os.environ)


@functools.cache
def _writer() -> BatchWriter:
    """Return the container's writer. ``parameter_validation`` off saves a third of the client's CPU."""
    client = boto3.client(
        "dynamodb",
        config=Config(
            parameter_validation=False,
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"total_max_attempts": 1},
        ),
    )
    return BatchWriter(client, _settings())


def handler(event: Any, context: Any) -> dict[str, list[dict[str, str]]]:
    """Write a batch, or the original's single record; what failed is in the answer, with its reason logged."""
    remaining_ms: Callable[[], int] = context.get_remaining_time_in_millis
    if not contract.is_batch(event):
        record = contract.single(event)
        failed = write(_settings(), _writer(), [record], remaining_ms)
        if failed:
            raise RuntimeError(f"{record.id!r} was not written: {failed[record.record_id]}")
        return contract.answer(())
    records, malformed = contract.records_of(event)
    if not event["records"]:
        _writer().check()
    failed = dict(malformed)
    failed.update(write(_settings(), _writer(), records, remaining_ms))
    keys = {record.record_id: record.id for record in records}
    for record_id, reason in failed.items():
        line = {"event": "record_failed", "record_id": record_id, "key": keys.get(record_id), "reason": reason}
        print(json.dumps(line), flush=True)
    return contract.answer(failed)


def write(
    settings: Settings, writer: BatchWriter, records: Sequence[Record], remaining_ms: Callable[[], int]
) -> dict[str, str]:
    """Write the newest record of each key; return record_id → reason of those that were not written.

    ``BatchWriteItem`` rejects two requests for one key, so a key's last record stands for all of them.
    """
    failed: dict[str, str] = {}
    last: dict[str, Record] = {}
    ids: dict[str, list[str]] = {}
    for record in records:
        try:
            key = table_key(record)
        except ItemError as error:
            failed[record.record_id] = str(error)
            continue
        last[key] = record
        ids.setdefault(key, []).append(record.record_id)
    writes: list[Write] = []
    reasons: dict[str, str] = {}
    for key, record in last.items():
        try:
            writes.append(Write(key, *request_of(key, record, settings)))
        except ItemError as error:
            reasons[key] = str(error)
    reasons.update(writer.write(writes, remaining_ms))
    for key, reason in reasons.items():
        failed.update((record_id, reason) for record_id in ids[key])
    return failed
