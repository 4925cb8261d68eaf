"""The function that receives: it notes the number of every key and value.

Its notes are binary, a file a worker: a day's journal of payloads would not fit the disk at this load.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Any, BinaryIO

import orjson

HEAD = struct.Struct("<QI")
"""Of an invocation: when it began (monotonic ns, the same clock in every process) and how many records follow."""
RECORD = struct.Struct("<II")
"""Of a record: the key's number, and the number of the write that its value is from."""
SUFFIX = ".arrivals"

_files: dict[Path, BinaryIO] = {}


def note(event: Any, context: Any) -> dict[str, list[dict[str, str]]]:
    """Note all records, or none where the batch's deadline has passed."""
    moment_ns = time.monotonic_ns()
    records = event["records"]
    if 0 < event.get("deadline_ms", 0) < time.time() * 1_000:
        return {"batchItemFailures": [{"itemIdentifier": record["record_id"]} for record in records]}
    if records:
        _notes().write(encode(moment_ns, [numbers(record) for record in records]))
    return {"batchItemFailures": []}


def numbers(record: dict[str, Any]) -> tuple[int, int]:
    """Return the number in a record's key, and that of its value."""
    return int(record["id"].partition(":")[2]), int(orjson.loads(record["body"])["n"])


def encode(moment_ns: int, pairs: list[tuple[int, int]]) -> bytes:
    """Return an invocation as it is noted."""
    return HEAD.pack(moment_ns, len(pairs)) + b"".join([RECORD.pack(*pair) for pair in pairs])


def _notes() -> BinaryIO:
    path = Path(os.environ["NOTES"]) / f"{os.getpid()}{SUFFIX}"
    if path not in _files:
        # Open for as long as the worker lives.
        _files[path] = path.open("ab", buffering=0)
    return _files[path]
