"""The DynamoDB function, watched: it notes what came, when, what the engine says of it, and when it was written.

Times are monotonic ns, one clock for all processes of a machine. Each worker has a file of its own.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from benchmarks.drive.commands import DUE_FIELD, NUMBER_FIELD, key_number

SUFFIX = ".arrivals"
COLUMNS = ("key", "number", "due_ns", "captured_ms", "fetched_us", "invoked_ns", "done_ns")
"""Of a record: ``captured_ms`` is Unix ms by the engine's host, ``fetched_us`` Unix µs by the server; 0: gone."""

_files: dict[Path, BinaryIO] = {}
_body = msgspec.json.Decoder(dict[str, str]).decode


def store(event: Any, context: Any) -> dict[str, list[dict[str, str]]]:
    """Have the DynamoDB function write all records, and note those that it wrote."""
    moment_ns = time.monotonic_ns()
    from lambdas.dynamodb.handler import handler

    answer = handler(event, context)
    failed = {one["itemIdentifier"] for one in answer["batchItemFailures"]}
    records = [record for record in event["records"] if record["record_id"] not in failed]
    _write(records, moment_ns, time.monotonic_ns())
    return answer


def _write(records: list[dict[str, Any]], moment_ns: int, done_ns: int) -> None:
    if not records:
        return
    rows = np.array([(*_read(record), moment_ns, done_ns) for record in records], np.int64)
    path = Path(os.environ["NOTES"]) / f"{os.getpid()}{SUFFIX}"
    if path not in _files:
        # Open for as long as the worker lives.
        _files[path] = path.open("ab", buffering=0)
    _files[path].write(rows.tobytes())


def _read(record: dict[str, Any]) -> tuple[int, int, int, int, int]:
    """Return key, number, due, captured, fetched."""
    number, due_ns = number_and_due(record["body"])
    return key_number(record["id"]), number, due_ns, record["captured_at_ms"], record["version"]


def number_and_due(body: str | None) -> tuple[int, int]:
    """Return the number of the change that a value is from, and when that was due (monotonic ns); 0s for no value."""
    if body is None:
        return 0, 0
    if body.startswith("{"):
        fields = _body(body)
        return int(fields[NUMBER_FIELD]), int(fields[DUE_FIELD])
    parts = msgspec.json.decode(body, type=str).split("|")
    return int(parts[0]), int(parts[1])
