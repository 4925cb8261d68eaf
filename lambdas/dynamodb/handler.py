"""The function: batches of changed keys → items of a DynamoDB table."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from lambdas import contract
from lambdas.contract import Record, SetupError
from lambdas.dynamodb.calls import Write, Writer
from lambdas.dynamodb.client import Client
from lambdas.dynamodb.items import Item, ItemError, checked_size, item_of, table_key, versioned_item_of
from lambdas.dynamodb.puts import PutWriter
from lambdas.dynamodb.settings import Settings, read_settings
from lambdas.dynamodb.versioned import VersionedWriter
from lambdas.dynamodb.writer import BatchWriter
from lambdas.repeats import TimeLeft
from lambdas.serving import now_ms, serve_batch, serve_single


@functools.cache
def _settings() -> Settings:
    return read_settings(os.environ)


@functools.cache
def _writer() -> Writer:
    """Return the container's writer."""
    settings = _settings()
    return writer_of(settings)(Client(settings), settings)


def writer_of(settings: Settings) -> type[BatchWriter | PutWriter | VersionedWriter]:
    """Return the kind of writer that the modes ask for."""
    if not settings.is_versioned:
        return BatchWriter
    # An UPDATE keeps attributes that it does not name, as those of fields that are gone: only a put replaces them.
    return PutWriter if settings.item_mode == "attributes" else VersionedWriter


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Write a batch, or the original's single record; what failed is in the answer, with its reason logged."""
    if not contract.is_batch(event):
        return serve_single(_single(event), context, now_ms, _write)
    refuses = _settings().is_versioned
    return serve_batch(event, context, now_ms, _write, lambda _: _writer().check(), refuses_older_versions=refuses)


def _single(event: Any) -> Record:
    if _settings().is_versioned:
        raise SetupError(
            "DYNAMO_WRITE_MODE=versioned needs batches: the original's single record has no version; "
            "set the route's payload to batch, or DYNAMO_WRITE_MODE to batch"
        )
    if _settings().database_in_key:
        raise SetupError(
            "DYNAMO_DATABASE_IN_KEY=on needs batches: the original's single record does not say its database; "
            "set the route's payload to batch, or DYNAMO_DATABASE_IN_KEY to off"
        )
    return contract.single(event)


def _write(records: Sequence[Record], time_left: TimeLeft) -> dict[str, str]:
    return write(_settings(), _writer(), records, time_left)


def write(settings: Settings, writer: Writer, records: Sequence[Record], time_left: TimeLeft) -> dict[str, str]:
    """Write the newest record of each key; return record_id → reason of those that were not written.

    ``BatchWriteItem`` rejects two requests for one key, so a key's last record stands for all of them; where writes are
    versioned, the one with the highest version.
    """
    if settings.is_versioned:
        records = sorted(records, key=attrgetter("version"))
    failed: dict[str, str] = {}
    last: dict[str, Record] = {}
    ids: dict[str, list[str]] = {}
    for record in records:
        try:
            key = table_key(record, with_database=settings.database_in_key)
        except ItemError as error:
            failed[record.record_id] = str(error)
            continue
        last[key] = record
        ids.setdefault(key, []).append(record.record_id)
    writes: list[Write] = []
    reasons: dict[str, str] = {}
    now_ms = time_left.now_ms()
    for key, record in last.items():
        try:
            item = _item(key, record, settings, now_ms)
            writes.append(Write(key, item, checked_size(item) if item else len(key)))
        except ItemError as error:
            reasons[key] = str(error)
    reasons.update(writer.write(writes, time_left))
    for key, reason in reasons.items():
        failed.update((record_id, reason) for record_id in ids[key])
    return failed


def _item(key: str, record: Record, settings: Settings, now_ms: int) -> Item | None:
    """Return what the table is to hold of the key; None if nothing."""
    if settings.is_versioned:
        return versioned_item_of(key, record, settings, now_ms)
    return None if record.body is None else item_of(key, record, settings)
