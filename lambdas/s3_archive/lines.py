"""Records → lines of the archive, and the objects that hold them.  (pure)

Whatever is in a record, its line is one that Athena can read: a query fails as a whole on a single bad one.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

from lambdas.contract import Record
from lambdas.s3_archive.settings import Settings

SUFFIX = ".json.gz"
COMPRESSION_LEVEL = 6

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CAPTURED_MS_MAX = 253_402_300_799_999
"""The end of the year 9999: what comes later has no date."""
_BIGINT_MAX = 2**63 - 1
_INT_MAX = 2**31 - 1

_PARTITIONS = {"hour": "date=%Y-%m-%d/hour=%H/", "day": "date=%Y-%m-%d/"}


class RecordRefused(ValueError):
    """This record can't become a line; the text says why."""


@dataclass(frozen=True, slots=True)
class Line:
    """One value of a key: the JSON text with the newline at its end, and where it belongs."""

    partition: str
    version: int
    data: bytes
    record_id: str


@dataclass(frozen=True, slots=True)
class ArchiveObject:
    """One object of the bucket: the lines of one partition, compressed. Equal lines make an equal object."""

    name: str
    body: bytes
    record_ids: tuple[str, ...]


def line_of(record: Record, settings: Settings, now_us: int) -> Line:
    """Return the record's line; raise `RecordRefused` where it would be one that a query stumbles over.

    ``now_us`` is Unix time in microseconds, and stands for the time and the version of a record without them.
    """
    captured_ms = record.captured_at_ms or now_us // 1_000
    version = record.version or now_us
    _check_numbers(captured_ms, version, record.db, record.ordinal)
    captured = _EPOCH + timedelta(milliseconds=captured_ms)
    content: dict[str, Any] = {
        "key": record.id,
        "type": record.type,
        "event": record.event,
        "db": record.db,
        "version": version,
        "captured_at": captured.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "deleted": record.body is None,
    }
    if record.ordinal:
        content["ordinal"] = record.ordinal
    if record.id_encoding:
        content["key_encoding"] = record.id_encoding
    if record.body is not None:
        _check_json(record.body)
        content["value"] = record.body
        if record.body_encoding:
            content["value_encoding"] = record.body_encoding
    try:
        data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except UnicodeEncodeError as error:
        raise RecordRefused(f"it holds text that is not Unicode: {error.reason}") from None
    return Line(captured.strftime(_PARTITIONS[settings.partition]), version, data, record.record_id)


def objects_of(lines: Iterable[Line], settings: Settings) -> Iterator[ArchiveObject]:
    """Yield an object for each partition, the earliest first; each is compressed when it is asked for.

    The name follows from the lines, so that whoever brings the same lines again replaces the object with itself.
    """
    partitions: dict[str, list[Line]] = {}
    for line in lines:
        partitions.setdefault(line.partition, []).append(line)
    for partition, held in sorted(partitions.items()):
        held.sort(key=attrgetter("version", "data"))
        text = b"".join(line.data for line in held)
        digest = hashlib.sha256(text).hexdigest()[:16]
        name = f"{settings.prefix}{partition}{held[0].version}-{len(held)}-{digest}{SUFFIX}"
        # Without the time of the compression, equal lines are equal bytes.
        body = gzip.compress(text, COMPRESSION_LEVEL, mtime=0)
        yield ArchiveObject(name, body, tuple(line.record_id for line in held))


def _check_numbers(captured_ms: int, version: int, db: int, ordinal: int) -> None:
    """See that each number fits its column."""
    if not 0 < captured_ms <= _CAPTURED_MS_MAX:
        raise RecordRefused(f"captured_at_ms is not a Unix time in milliseconds: {captured_ms}")
    if not 0 < version <= _BIGINT_MAX:
        raise RecordRefused(f"version is not a positive number of 64 bits: {version}")
    if not 0 <= db <= _INT_MAX:
        raise RecordRefused(f"db is not the number of a database: {db}")
    if not 0 <= ordinal <= _INT_MAX:
        raise RecordRefused(f"ordinal is not a place among events: {ordinal}")


def _check_json(body: str) -> None:
    try:
        json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RecordRefused(f"the body is not JSON: {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
