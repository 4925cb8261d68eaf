"""The function: batches of changed keys → rows of Aurora MySQL tables."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from lambdas import contract
from lambdas.aurora_mysql.calls import Caller
from lambdas.aurora_mysql.connection import Connection
from lambdas.aurora_mysql.credentials import credentials_of
from lambdas.aurora_mysql.errors import GivenUp
from lambdas.aurora_mysql.rows import Change, RecordRefused, change_of
from lambdas.aurora_mysql.settings import Settings, read_settings
from lambdas.aurora_mysql.writer import Writer
from lambdas.contract import Record, SetupError
from lambdas.repeats import TimeLeft
from lambdas.serving import now_ms, serve_batch, serve_single


@functools.cache
def _settings() -> Settings:
    return read_settings(os.environ)


@functools.cache
def _writer() -> Writer:
    """Return the container's writer, with its connection."""
    settings = _settings()
    return Writer(Caller(Connection(settings, credentials_of(settings)), settings), settings)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Write a batch, or the original's single record; what failed is in the answer, with its reason logged."""
    if not contract.is_batch(event):
        return serve_single(_single(event), context, now_ms, _write)
    refuses = _settings().refuses_older_versions
    return serve_batch(event, context, now_ms, _write, _check, refuses_older_versions=refuses)


def _check(time_left: TimeLeft) -> None:
    try:
        _writer().check(time_left)
    except GivenUp as gone:
        raise RuntimeError(f"the database could not be asked whether it may be written: {gone.reason}") from None


def _single(event: Any) -> Record:
    """Return the original's record. It has no version: the time at which it came stands for one."""
    return contract.single(event)._replace(version=time.time_ns() // 1_000)


def _write(records: Sequence[Record], time_left: TimeLeft) -> dict[str, str]:
    return write(_settings(), _writer(), records, time_left)


def write(settings: Settings, writer: Writer, records: Sequence[Record], time_left: TimeLeft) -> dict[str, str]:
    """Write the newest record of each row; return record_id → reason of those that were not written.

    A table that is set up wrongly fails its own records. Raises `SetupError` if that is every table of the batch.
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
