"""What every handler here does with an event, whatever it writes to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from lambdas import contract
from lambdas.contract import Deadline, Record
from lambdas.repeats import TimeLeft

Write = Callable[[Sequence[Record], TimeLeft], dict[str, str]]
"""Writes records; returns record_id → reason of those that were not written."""


def now_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def serve_batch(
    event: dict[str, Any],
    context: Any,
    clock_ms: Callable[[], int],
    write: Write,
    check: Callable[[TimeLeft], None],
    *,
    refuses_older_versions: bool,
) -> dict[str, Any]:
    """Write a batch; return the answer, and log what failed with its reason. An empty batch has ``check`` called."""
    records, malformed = contract.records_of(event)
    time_left = TimeLeft(context.get_remaining_time_in_millis, contract.deadline_of(event), clock_ms)
    if not event["records"]:
        check(time_left)
        return contract.answer_to_nothing(refuses_older_versions=refuses_older_versions)
    contract.check_fence(event, refuses_older_versions=refuses_older_versions)
    failed = dict(malformed)
    failed.update(write(records, time_left))
    keys = {record.record_id: record.id for record in records} if failed else {}
    for record_id, reason in failed.items():
        line = {"event": "record_failed", "record_id": record_id, "key": keys.get(record_id), "reason": reason}
        print(json.dumps(line), flush=True)
    return contract.answer(failed)


def serve_single(record: Record, context: Any, clock_ms: Callable[[], int], write: Write) -> dict[str, Any]:
    """Write the original's record, whose failure is an exception; return the answer."""
    time_left = TimeLeft(context.get_remaining_time_in_millis, Deadline(), clock_ms)
    failed = write([record], time_left)
    if failed:
        raise RuntimeError(f"{record.id!r} was not written: {failed[record.record_id]}")
    return contract.answer({})
