"""The function: batches of changed keys → rows of Aurora MySQL tables."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from lambdas import contract
from lambdas.aurora_mysql.calls import Caller, TimeLeft
from lambdas.aurora_mysql.connection import Connection
from lambdas.aurora_mysql.credentials import credentials_of
from lambdas.aurora_mysql.errors import GivenUp
from lambdas.aurora_mysql.rows import Change, RecordRefused, change_of
from lambdas.aurora_mysql.settings import Settings, read_settings
from lambdas.aurora_mysql.writer import Writer
from lambdas.contract import Record, SetupError


@functools.cache
def _settings() -> Settings:
    return read_settings(os.environ)


@functools.cache
def _writer() -> Writer:
    """Return the container's writer, with its connection."""
    settings = _settings()
    return Writer(Caller(Connection(settings, credentials_of(settings)), settings), settings)


def now_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def handler(event: Any, context: Any) -> dict[str, list[dict[str, str]]]:
    """Write a batch, or the original's single record; what failed is in the answer, with its reason logged."""
    if not contract.is_batch(event):
        _write_single(event, context)
        return contract.answer(())
    records, malformed = contract.records_of(event)
    time_left = TimeLeft(context.get_remaining_time_in_millis, contract.deadline_of(event), now_ms)
    if not event["records"]:
        _check(time_left)
    failed = dict(malformed)
    failed.update(write(_settings(), _writer(), records, time_left))
    keys = {record.record_id: record.id for record in records}
    for record_id, reason in failed.items():
        line = {"event": "record_failed", "record_id": record_id, "key": keys.get(record_id), "reason": reason}
        print(json.dumps(line), flush=True)
    return contract.answer(failed)


def _check(time_left: TimeLeft) -> None:
    try:
        _writer().check(time_left)
    except GivenUp as gone:
        raise RuntimeError(f"the database could not be asked whether it may be written: {gone.reason}") from None


def _write_single(event: Any, context: Any) -> None:
    """Write the original's record. It has no version: the time at which it came stands for one."""
    version = time.time_ns() // 1_000
    record = dataclasses.replace(contract.single(event), version=version)
    time_left = TimeLeft(context.get_remaining_time_in_millis, contract.Deadline(), now_ms)
    failed = write(_settings(), _writer(), [record], time_left)
    if failed:
        raise RuntimeError(f"{record.id!r} was not written: {failed[record.record_id]}")


def write(settings: Settings, writer: Writer, records: Sequence[Record], time_left: TimeLeft) -> dict[str, str]:
    """Write the newest record of each row; return record_id → reason of those that were not written.

    A table that is set up wrongly fails its own records. Raises `SetupError` where that is every table of the batch.
    """
    failed: dict[str, str] = {}
    ids: dict[tuple[str, bytes | int], list[str]] = {}
    newest: dict[str, dict[bytes | int, Change]] = {}
    for record in sorted(records, key=attrgetter("version")):
        try:
            change = change_of(record, settings.mappings)
        except RecordRefused as error:
            failed[record.record_id] = str(error)
            continue
        table = change.mapping.table
        newest.setdefault(table, {})[change.identity] = change
        ids.setdefault((table, change.identity), []).append(record.record_id)
    wrong: list[SetupError] = []
    for table, changes in newest.items():
        try:
            reasons = writer.write(next(iter(changes.values())).mapping, list(changes.values()), time_left)
        except SetupError as error:
            wrong.append(error)
            reasons = dict.fromkeys(changes, str(error))
        for identity, reason in reasons.items():
            failed.update((record_id, reason) for record_id in ids[table, identity])
    if wrong and len(wrong) == len(newest):
        raise wrong[0]
    return failed
